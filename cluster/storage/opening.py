"""Opens the store at a URI, and probes whether it honours put-if-absent."""

import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from cluster.errors import ConfigError, StoreError
from cluster.storage.interface import PATH, Store
from cluster.storage.local import LocalStore
from cluster.storage.s3 import S3Store
from cluster.storage.s3_options import S3Options

DEFAULT_STORE = ".orthoplex/store"  # if nothing names another
PROBE_KEY = ".orthoplex-probe"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def open_store(uri: str, *, stands: bool = False) -> Store:
    """The store at a path (`~` is the home), `file:///path`, `s3://bucket` or `s3://bucket/prefix`.

    A folder that `stands` must be there, and is never made. An S3 URI may end with options, as in
    `s3://bucket/prefix?sse=aws:kms&kms_key=alias/team` (`S3Options`). Touches neither disk nor network. S3 credentials
    and endpoint come from the AWS SDK's own chain. Raises ConfigError if the URI has another form or may hold
    credentials.
    """
    scheme, rest = SCHEME.match(uri), uri.partition("://")[2]
    if scheme and "@" in uri and not uri.startswith("file:///"):
        raise ConfigError("store: a URI with '@' may hold a password and is refused; give AWS_PROFILE instead")
    path = uri if not scheme else unquote(rest) if uri.startswith("file:///") else ""
    if path.strip() and path.isprintable():
        with suppress(RuntimeError):  # no such home
            return LocalStore(Path(path).expanduser(), stands=stands)
    if "://" in uri and (opener := SCHEMES.get(uri.partition("://")[0])):
        return opener(uri)
    raise unknown(uri)


def open_s3(uri: str) -> Store:
    """The store at `s3://bucket/prefix?options`."""
    location, _, query = uri.removeprefix("s3://").partition("?")
    bucket, _, prefix = location.removesuffix("/").partition("/")
    if BUCKET.fullmatch(bucket) and (not prefix or PATH.fullmatch(prefix)):
        return S3Store(bucket, prefix, S3Options.parse(query))
    raise unknown(uri)


SCHEMES: dict[str, Callable[[str], Store]] = {"s3": open_s3}  # by the part of a URI before ://; a folder needs none


def unknown(uri: str) -> ConfigError:
    """The error for a URI that names no store."""
    return ConfigError(f"store {uri!r}: use a path, file:///path, s3://bucket or s3://bucket/prefix")


def probe(store: Store) -> None:
    """Checks that the store can be written and honours put-if-absent, which commits need. Called before a run writes.

    Leaves one small object under PROBE_KEY. Raises StoreError if the store cannot be written, ignores the condition,
    or loses or does not list what was written.
    """
    first, second = (f"orthoplex probe {uuid.uuid4().hex}\n".encode() for _ in range(2))
    created = store.put_if_absent(PROBE_KEY, first)
    before = store.get(PROBE_KEY)
    faults = {
        "it created one object twice": store.put_if_absent(PROBE_KEY, second),
        "it did not give back what was just written": created and before != first,
        "it replaced an object against the condition": store.get(PROBE_KEY) != before,
        "it does not list what was just written": PROBE_KEY not in store.list(PROBE_KEY),
    }
    for fault in (fault for fault, found in faults.items() if found):
        raise StoreError(
            f"store {store.uri}: {fault} ({PROBE_KEY}), so two runs could overwrite each other; use a folder, or a "
            "store that honours `If-None-Match: *` on PutObject, as AWS S3 and Ceph do; see docs/operations.md"
        )
    if isinstance(store, LocalStore):
        store.keep_reserve()
