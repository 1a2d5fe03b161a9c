"""Files of this machine on their way to a store and back, digested as they pass."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from cluster.errors import StoreError
from cluster.storage.disk import refusal
from cluster.storage.interface import Content

CHUNK_BYTES, CACHED_BYTES = 1 << 20, 256 << 10  # the second fits a core's own cache


@contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """A file that is to be stored, open and unbuffered. Raises StoreError if it cannot be opened."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise StoreError(f"cannot read {path}, which is to be stored: {error.strerror}; mend that") from None
    with file:
        yield file


class Target:
    """A file to fill by offset, from one or more threads. Errors of its disk are StoreErrors that name the file."""

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

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer with the file's bytes from an offset; returns their number."""
        with self._explained():
            return os.preadv(self.descriptor, [buffer], offset)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refusal(f"cannot write {self.path}", error, "choose another folder") from None


@contextmanager
def filling(path: Path) -> Iterator[Target]:
    """The file `path`, made or emptied, to fill; removed if the block fails. Only plain files are accepted."""
    if path.exists() and not path.is_file():  # a device such as /dev/null would be removed if the block fails
        raise StoreError(f"cannot write {path}: is no plain file; choose another path")
    target = Target(path)
    try:
        yield target
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(target.descriptor)


class Digest:
    """The sha256 of bytes that are passed in order. A whole chunk is digested in a thread of its own while the next one
    is fetched; a shorter one is digested at once. `size` is the number of bytes passed so far."""

    def __init__(self) -> None:
        self.sha256, self.size = hashlib.sha256(), 0
        self.thread, self.last = ThreadPoolExecutor(1), Future[None]()
        self.last.set_result(None)

    def add(self, chunk: bytes) -> None:
        """The next bytes, which must not change any more."""
        self.last.result()
        if len(chunk) < CHUNK_BYTES:
            self.sha256.update(chunk)
        else:
            self.last = self.thread.submit(self.sha256.update, chunk)
        self.size += len(chunk)

    def add_from(self, target: Target, stop: int) -> None:
        """The bytes of a file from `size` to `stop`."""
        self.last.result()
        buffer = memoryview(bytearray(CACHED_BYTES))
        while self.size < stop and (count := target.read_into(buffer[: stop - self.size], self.size)):
            self.sha256.update(buffer[:count])
            self.size += count

    def content(self) -> Content:
        """Size and digest of all that was passed."""
        self.last.result()
        self.thread.shutdown()
        return Content(self.size, self.sha256.hexdigest())


def copy(source: IO[bytes], write: Callable[[int, bytes], object]) -> Content:
    """Calls `write(offset, chunk)` per chunk of the source. A chunk is digested while the next one is copied."""
    digest = Digest()
    for chunk in iter(partial(source.read, CHUNK_BYTES), b""):
        write(digest.size, chunk)
        digest.add(chunk)
    return digest.content()
