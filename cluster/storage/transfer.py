"""Files of this machine on their way to a store and back, digested as they pass."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from cluster.errors import StoreError
from cluster.storage.interface import Content

CHUNK_BYTES = 4 << 20


@contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """A file that is to be stored, open and unbuffered; raises StoreError where it cannot be opened."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise StoreError(f"cannot read {path}, which is to be stored: {error.strerror}; mend that") from None
    with file:
        yield file


class Target:
    """A file being filled, from several threads where by offset. Errors of its disk are StoreErrors that name it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)

    def write_at(self, offset: int, data: bytes) -> None:
        """Writes all of the bytes at an offset."""
        view = memoryview(data)
        with self._explained():
            while view:
                count = os.pwrite(self.descriptor, view, offset)
                view, offset = view[count:], offset + count

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes at an offset, as they are in the file now."""
        with self._explained():
            return os.pread(self.descriptor, size, offset)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            fix = "free some space and run again" if full else "choose another folder"
            raise StoreError(f"cannot write {self.path}: {error.strerror}; {fix}") from None


@contextmanager
def filling(path: Path) -> Iterator[Target]:
    """The file `path`, made or emptied, to fill; gone where the block fails. What is no plain file is refused."""
    if path.exists() and not path.is_file():  # a device such as /dev/null would be removed where the block fails
        raise StoreError(f"cannot write {path}: is no plain file; choose another path")
    target = Target(path)
    try:
        yield target
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(target.descriptor)


def copy(source: IO[bytes], write: Callable[[int, bytes], object]) -> Content:
    """Calls `write(offset, chunk)` for all of the source; a chunk is digested while the next one is copied."""
    digest, size, last = hashlib.sha256(), 0, Future[None]()
    last.set_result(None)
    with ThreadPoolExecutor(1) as hasher:
        for chunk in iter(partial(source.read, CHUNK_BYTES), b""):
            last.result()
            last = hasher.submit(digest.update, chunk)
            write(size, chunk)
            size += len(chunk)
    return Content(size, digest.hexdigest())
