"""Where bytes live: a folder or an S3 bucket behind one small interface. Knows no machine learning.

What writers must agree on rests on one conditional operation, `put_if_absent`: stores disagree on all the others.
"""

import errno
import hashlib
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from cluster.errors import ConfigError, KeyAbsentError, StoreError

Keys = list[str]  # inside the classes below `list` is a method
MAX_KEY_LENGTH = 512
PROBE_KEY = ".orthoplex-probe"
SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+"
PATH = re.compile(rf"{SEGMENT}(?:/{SEGMENT})*")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class Store(Protocol):
    """Objects under keys. `uri` is canonical and holds no credentials: `open_store(uri)` is the same store anywhere.

    Every method raises StoreError where the store cannot be reached or refuses, or a key is not a safe one (`is_key`).
    """

    uri: str

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises KeyAbsentError where there is none."""

    def put(self, key: str, data: bytes | Path) -> None:
        """Writes the object, whole or not at all, replacing what stood there. The file at a Path is streamed."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes the object unless one stands there; True if this call created it. Of racing calls one gets True.

        `data` must differ between any two attempts, for instance by a nonce: after a lost answer, one's own bytes
        under the key are how success is told from defeat.
        """

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        """The first `limit` keys (default: all) that begin with `prefix`, in ascending byte order; no unsafe names."""

    def list_folders(self, prefix: str) -> Keys:
        """The names directly below `prefix`/ that have keys below them, sorted; what lies in them is not listed."""

    def delete(self, key: str) -> None:
        """Removes the object; one that is absent is fine."""

    def download(self, key: str, path: Path) -> str:
        """Streams the object into a new file and returns its sha256. Raises KeyAbsentError where there is none."""


def open_store(uri: str) -> Store:
    """The store at a path (`~` is the home), `file:///path`, `s3://bucket` or `s3://bucket/prefix`.

    Touches neither disk nor network. S3 credentials and endpoint come from the AWS SDK's own chain. Raises ConfigError
    where the URI has another form or may hold credentials.
    """
    scheme, rest = SCHEME.match(uri), uri.partition("://")[2]
    if scheme and "@" in uri and not uri.startswith("file:///"):
        raise ConfigError("store: a URI with '@' may hold a password and is refused; give AWS_PROFILE instead")
    path = uri if not scheme else unquote(rest) if uri.startswith("file:///") else ""
    if path.strip() and path.isprintable():
        with suppress(RuntimeError):  # no such home
            return LocalStore(Path(path).expanduser())
    bucket, _, prefix = rest.removesuffix("/").partition("/")
    if uri.startswith("s3://") and BUCKET.fullmatch(bucket) and (not prefix or PATH.fullmatch(prefix)):
        return S3Store(bucket, prefix)
    raise ConfigError(f"store {uri!r}: use a path, file:///path, s3://bucket or s3://bucket/prefix")


def probe(store: Store) -> None:
    """Proves what commits rest on, before a run writes: the store can be written and keeps to put-if-absent.

    Leaves one small object under PROBE_KEY. Raises StoreError where the store cannot be written, ignores the condition,
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


@dataclass(frozen=True)
class FileRecord:
    """A file as a manifest lists it: `path` relative to its folder, `size` in bytes, `sha256` in hex."""

    path: str
    size: int
    sha256: str


def upload_files(store: Store, prefix: str, directory: Path) -> list[FileRecord]:
    """Puts every file below `directory` under `prefix`/, streamed; their records, in the order of paths."""
    records = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        records.append(FileRecord(path.relative_to(directory).as_posix(), path.stat().st_size, digest))
        store.put(f"{prefix}/{records[-1].path}", path)
    return records


def is_key(key: str) -> bool:
    """Whether a key is safe in every store: segments as in PATH, the first not `.tmp`, at most 512 characters."""
    return len(key) <= MAX_KEY_LENGTH and bool(PATH.fullmatch(key)) and key.partition("/")[0] != ".tmp"


def _checked(name: str, kind: str = "key") -> str:
    everything, key = kind == "prefix" and not name, name.removesuffix("/") if kind == "prefix" else name
    if not (everything or is_key(key)):
        raise StoreError(f"{kind} {name[:MAX_KEY_LENGTH]!r}: not safe; use A-Z a-z 0-9 . _ - between single slashes")
    return name


class LocalStore:
    """A store in a folder, made by the first write.

    A write goes to a file of its own in `<root>/.tmp/`, is synced to disk, and only then takes its name: by rename for
    `put`, by `os.link`, which never overwrites, for `put_if_absent`. What a killed writer leaves there is never listed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(os.path.normpath(Path(root).absolute()))
        self.uri = str(self.root)

    def get(self, key: str) -> bytes:
        """See Store."""
        with self._explained("read", _checked(key)) as path:
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                raise KeyAbsentError(f"store {self.uri}: no object {key!r}") from None

    def put(self, key: str, data: bytes | Path) -> None:
        """See Store."""
        with self._explained("write", _checked(key)) as path, self._written(path, data) as temporary:
            temporary.replace(path)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See Store."""
        with self._explained("write", _checked(key)) as path, self._written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return temporary.samefile(path)  # a network filesystem may lose the answer to our own link
            return True

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        """See Store."""
        keys: Keys = []
        errors: list[OSError] = []
        with self._explained("list", _checked(prefix, "prefix").rpartition("/")[0]) as top:
            for folder, _, names in os.walk(top, onerror=errors.append):
                parent = folder.removeprefix(self.uri).lstrip("/")
                keys += [f"{parent}/{name}".lstrip("/") for name in names]
            if grave := [error for error in errors if not isinstance(error, FileNotFoundError)]:
                raise grave[0]
        return sorted(key for key in keys if key.startswith(prefix) and is_key(key))[:limit]

    def list_folders(self, prefix: str) -> Keys:
        """See Store."""
        with self._explained("list", _checked(prefix, "prefix")) as top:
            try:
                names = [entry.name for entry in os.scandir(top) if entry.is_dir()]
            except FileNotFoundError:
                names = []
        return sorted(name for name in names if is_key(name))

    def delete(self, key: str) -> None:
        """See Store."""
        with self._explained("delete", _checked(key)) as path:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root or not _remove_empty(folder):
                    break

    def download(self, key: str, path: Path) -> str:
        """See Store."""
        with self._explained("read", _checked(key)) as source:
            try:
                with source.open("rb") as stream:
                    return _save(iter(partial(stream.read, 2**20), b""), path)
            except (FileNotFoundError, IsADirectoryError):
                raise KeyAbsentError(f"store {self.uri}: no object {key!r}") from None

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[Path]:
        """Yields the path of a key, which a link may not lead out of the folder, and explains errors of the disk."""
        path = self.root / key
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise StoreError(f"store {self.uri}: {key!r} leads out of the folder through a link; remove the link")
        try:
            yield path
        except OSError as error:
            no_links = error.filename2 and error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
            fix = "use a filesystem that has hard links" if no_links else "mend that, or use another folder"
            where, what = error.filename or path, error.strerror or error
            raise StoreError(f"store {self.uri}: cannot {action} {where}: {what}; {fix}") from None

    @contextmanager
    def _written(self, path: Path, data: bytes | Path) -> Iterator[Path]:
        """Yields a whole, synced file holding `data` that is to become `path`, then syncs the folder of `path`."""
        temporary = self.root / ".tmp" / uuid.uuid4().hex
        _make_folder(temporary.parent)
        _make_folder(path.parent)
        try:
            if isinstance(data, Path):
                shutil.copyfile(data, temporary)
            else:
                temporary.write_bytes(data)
            _sync(temporary)
            yield temporary
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """`mkdir -p` that makes the entry of every new folder durable."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _save(chunks: Iterable[bytes], path: Path) -> str:
    found = hashlib.sha256()
    with path.open("wb") as target:
        for chunk in chunks:
            found.update(chunk)
            target.write(chunk)
    return found.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


S3_TRIES, S3_BACKOFF_S = 6, 0.1
S3_REASONS = {  # by the code of an error answer, or by class of an SDK error
    "NoSuchBucket": "no such bucket; create it, or correct `store`",
    "AccessDenied": "access denied; allow s3:GetObject, s3:PutObject and s3:ListBucket to these credentials",
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"), "credentials refused; renew them"),
    "NoCredentialsError": "no credentials found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ConnectionError": "cannot connect; check the network and AWS_ENDPOINT_URL",
    "HTTPClientError": "the connection broke off; run again",
    "ResponseParserError": "what answers there is no S3 store; check AWS_ENDPOINT_URL",
    "OSError": "the file to be put there cannot be read",
    "ValueError": "AWS_ENDPOINT_URL is not a URL; write it as https://host:port",
}


class _S3Error(StoreError):
    status = -1  # of the HTTP answer; 0 where none came to a request that may have arrived, -1 where none was sent


class S3Store:
    """A store in an S3 bucket, below `prefix`, through boto3. Copies and pickles leave the client behind."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".removesuffix("/")

    def __getstate__(self) -> dict[str, str]:
        return {name: value for name, value in self.__dict__.items() if name != "client"}

    @cached_property
    def client(self) -> Any:
        """This process's boto3 client, made at first use. It repeats failed requests itself (AWS_MAX_ATTEMPTS)."""
        import boto3
        from botocore.config import Config

        custom = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        checksums = dict.fromkeys(("request_checksum_calculation", "response_checksum_validation"), "when_required")
        limits = {"connect_timeout": 5, "read_timeout": 60, "max_pool_connections": 32, "retries": {"mode": "standard"}}
        config = Config(**limits, **checksums, s3={"addressing_style": "path"} if custom else None)
        return boto3.session.Session().client("s3", config=config)

    def get(self, key: str) -> bytes:
        """See Store."""
        with self._explained("read", _checked(key)) as target:
            return bytes(self.client.get_object(**target)["Body"].read())

    def put(self, key: str, data: bytes | Path) -> None:
        """See Store."""
        from boto3.s3.transfer import TransferConfig

        with self._explained("write", _checked(key)) as target:
            if isinstance(data, bytes):
                self.client.put_object(**target, Body=data)
                return
            with data.open("rb") as source:
                self.client.upload_fileobj(source, **target, Config=TransferConfig(preferred_transfer_client="classic"))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See Store. Repeating is safe, by the SDK too: 412 to the repetition of a put of ours finds our own bytes."""
        for attempt in range(S3_TRIES):
            time.sleep(random.uniform(0, S3_BACKOFF_S * 2**attempt) if attempt else 0)
            try:
                with self._explained("write", _checked(key)) as target:
                    self.client.put_object(**target, Body=data, IfNoneMatch="*")
                    return True
            except _S3Error as error:
                failure = error
            if failure.status == 412:
                break
            if failure.status not in (0, 409, 429) and failure.status < 500:
                raise failure
        try:
            return self.get(key) == data
        except KeyAbsentError:
            raise failure from None

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        """See Store."""
        with self._explained("list", _checked(prefix, "prefix")) as target:
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=target["Key"], PaginationConfig={"PageSize": min(limit or 1000, 1000)}
            )
            keys = (item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", ()))
            return list(islice(filter(is_key, keys), limit))

    def list_folders(self, prefix: str) -> Keys:
        """See Store."""
        with self._explained("list", _checked(prefix, "prefix")) as target:
            top = f"{target['Key'].removesuffix('/')}/" if prefix or self.prefix else ""
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=top, Delimiter="/")
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]
            names = [name.removeprefix(top).removesuffix("/") for name in found]
            return sorted(name for name in names if is_key(name))

    def delete(self, key: str) -> None:
        """See Store."""
        with self._explained("delete", _checked(key)) as target:
            self.client.delete_object(**target)

    def download(self, key: str, path: Path) -> str:
        """See Store."""
        with self._explained("read", _checked(key)) as target:
            return _save(self.client.get_object(**target)["Body"].iter_chunks(2**20), path)

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[dict[str, str]]:
        """Yields the SDK's names for the object; explains errors, never in the SDK's words: they may quote secrets."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            yield {"Bucket": self.bucket, "Key": self.prefix + key}
        except (BotoCoreError, ClientError, ResponseParserError, OSError, ValueError) as error:
            answer: dict[str, Any] = getattr(error, "response", None) or {}
            names = [answer["Error"]["Code"]] if answer else [kind.__name__ for kind in type(error).__mro__]
            status = answer["ResponseMetadata"]["HTTPStatusCode"] if answer else -("HTTPClientError" not in names)
            if names[0] in ("NoSuchKey", "404"):
                raise KeyAbsentError(f"store {self.uri}: no object {key!r}") from None
            reasons = [S3_REASONS[name] for name in names if name in S3_REASONS]
            reason = reasons[0] if reasons else f"{names[0]}; check the store and the AWS settings"
            url = self.client.meta.endpoint_url if "client" in self.__dict__ else "//no endpoint"
            at = urlsplit(url).netloc.rpartition("@")[2]
            failure = _S3Error(f"store {self.uri} at {at}: cannot {action} {key!r}: {reason}")
            failure.status = status
            raise failure from None
