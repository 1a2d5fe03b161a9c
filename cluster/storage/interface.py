"""What a store can do, and which names are safe in every store."""

import re
from pathlib import Path
from typing import NamedTuple, Protocol

from cluster.errors import IntegrityError, StoreError

Keys = list[str]  # inside classes that have a method `list`
MAX_KEY_LENGTH = 512
SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+"
PATH = re.compile(rf"{SEGMENT}(?:/{SEGMENT})*")


class Content(NamedTuple):
    """The `size` in bytes and the `sha256` in hex of an object, measured while its bytes passed."""

    size: int
    sha256: str


class Store(Protocol):
    """Objects under keys. `uri` is canonical and holds no credentials: `open_store(uri)` is the same store anywhere.

    Every method raises StoreError if the store refuses, if it stays out of reach for longer than the patience
    (`retry`), or if a key is not safe (`is_key`). Every method may be called from several threads.
    """

    uri: str

    def get(self, key: str, most: int | None = None) -> bytes:
        """The object's bytes. Raises KeyAbsentError if there is none.

        Raises IntegrityError, without reading them, if it has more than `most` bytes; by default there is no bound.
        """

    def put(self, key: str, data: bytes) -> None:
        """Writes the object, whole or not at all, and replaces an older one."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes the object unless the key has one; True if this call created it. Of racing calls one gets True.

        `data` must differ between any two attempts, for instance by a nonce. After a lost answer, a writer knows by its
        own bytes under the key that it has succeeded.
        """

    def upload(self, key: str, path: Path) -> Content:
        """`put` of a file of any size, read once and streamed. Returns what was sent; the caller compares it."""

    def download(self, key: str, path: Path, most: int | None = None) -> Content:
        """`get` into the file `path`, made or replaced, streamed. Returns what arrived; the caller compares it.

        Errors are those of `get`. If it fails, the file is removed.
        """

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        """The first `limit` keys (default: all) that begin with `prefix`, in ascending byte order; no unsafe names."""

    def list_folders(self, prefix: str) -> Keys:
        """The names directly below `prefix`/ ("": below the root) that hold objects, sorted; their objects are not
        listed. Unsafe names are left out."""

    def delete(self, key: str) -> None:
        """Removes the object; an absent one is removed already. For garbage collection only."""


def refuse_larger(uri: str, key: str, size: int, most: int | None) -> None:
    """Raises IntegrityError if an object of `size` bytes has more than `most`."""
    if most is not None and size > most:
        raise IntegrityError(
            f"store {uri}: {key!r} has more than the {most:,} bytes that are due there; it was changed, so restore it "
            "from a backup"
        )


def is_key(key: str) -> bool:
    """Whether a key is safe in every store: segments as in PATH, the first not `.tmp`, at most 512 characters."""
    return len(key) <= MAX_KEY_LENGTH and bool(PATH.fullmatch(key)) and key.partition("/")[0] != ".tmp"


def checked(name: str, kind: str = "key") -> str:
    """The name; raises StoreError unless it is a safe key, or, of the kind "prefix", the beginning of safe keys."""
    everything, key = kind == "prefix" and not name, name.removesuffix("/") if kind == "prefix" else name
    if not (everything or is_key(key)):
        raise StoreError(f"{kind} {name[:MAX_KEY_LENGTH]!r}: not safe; use A-Z a-z 0-9 . _ - between single slashes")
    return name
