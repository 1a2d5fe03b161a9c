"""A store in a folder, on this machine's disk or on one that all nodes mount."""

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from cluster.errors import IntegrityError, KeyAbsentError, StoreError
from cluster.storage.disk import FULL, DiskFullError, told
from cluster.storage.interface import Content, Keys, checked, is_key, refuse_larger
from cluster.storage.retry import PassingError, patiently
from cluster.storage.transfer import copy, filling, reading

T = TypeVar("T")
PASSING = {  # what a network filesystem says while its server is away
    errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EREMOTEIO,
}  # fmt: skip
FIXES = {
    errno.ENOSPC: "free some space and run again; nothing that was stored is lost",
    errno.EDQUOT: "raise the quota or delete something, and run again; nothing that was stored is lost",
    errno.EROFS: "mount it for writing and run again, or use another folder; nothing that was stored is lost",
}
RESERVE, RESERVE_BYTES = ".tmp/.reserve", 64 << 10  # given up to write what must be written before anything is freed


class StoreGoneError(PassingError):
    """The folder was there, and is not any more. It may come back, as one does that is mounted again."""


class LocalStore:
    """A store in a folder, which the first write makes.

    A write goes to a file of its own in `<root>/.tmp/`, is synced to disk, and only then takes its name: by rename for
    `put`, by `os.link`, which never overwrites, for `put_if_absent`. Files that a killed writer leaves there are never
    listed.

    A folder that was there when it was read or written before, or that `stands` from the start, is never made again:
    what is removed while a run goes on would come back as the end of a log without its beginning.
    """

    def __init__(self, root: str | Path, *, stands: bool = False) -> None:
        self.root = Path(os.path.normpath(Path(root).absolute()))
        self.uri, self.stands = str(self.root), stands

    def get(self, key: str, most: int | None = None) -> bytes:
        """See Store."""
        return patiently(lambda: self._get(checked(key), most))

    def put(self, key: str, data: bytes) -> None:
        """See Store."""
        patiently(lambda: self._put(checked(key), lambda file: file.write(data)))

    def upload(self, key: str, path: Path) -> Content:
        """See Store."""

        def send(sink: IO[bytes]) -> Content:
            with reading(path) as source:
                return copy(source, lambda _, chunk: sink.write(chunk))

        return patiently(lambda: self._put(checked(key), send))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See Store. If a network filesystem loses the answer to our own link, our bytes are found there."""
        return patiently(lambda: self._link(checked(key), data))

    def download(self, key: str, path: Path, most: int | None = None) -> Content:
        """See Store."""
        return patiently(lambda: self._download(checked(key), path, most))

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        """See Store."""
        return patiently(lambda: self._list(checked(prefix, "prefix")))[:limit]

    def list_folders(self, prefix: str) -> Keys:
        """See Store. Folders whose objects were all deleted stay on disk and do not count."""
        return patiently(lambda: self._list_folders(checked(prefix, "prefix").removesuffix("/")))

    def delete(self, key: str) -> None:
        """See Store."""
        patiently(lambda: self._delete(checked(key)))

    def keep_reserve(self) -> None:
        """Sets some room aside, unless that has been done, or the disk refuses."""
        path = self.root / RESERVE
        try:
            if self.root.is_dir() and not path.exists():
                _make_folder(path.parent)
                path.write_bytes(os.urandom(RESERVE_BYTES))  # no filesystem packs them
        except OSError:
            self.give_up_reserve()

    def give_up_reserve(self) -> bool:
        """Frees what `keep_reserve` set aside; whether there was any."""
        try:
            (self.root / RESERVE).unlink()
        except OSError:
            return False
        return True

    def _get(self, key: str, most: int | None) -> bytes:
        with self._explained("read", key) as path, self._present(key), self._opened(path, key, most) as file:
            return file.read()

    def _put(self, key: str, write: Callable[[IO[bytes]], T]) -> T:
        with self._explained("write", key) as path, self._written(path, write) as (temporary, result):
            temporary.replace(path)
            return result

    def _link(self, key: str, data: bytes) -> bool:
        with self._explained("write", key) as path, self._written(path, lambda f: f.write(data)) as (temporary, _):
            try:
                os.link(temporary, path)
            except FileExistsError:
                with self._opened(path, key, None) as file:
                    return file.read() == data
            return True

    def _download(self, key: str, target: Path, most: int | None) -> Content:
        with self._explained("read", key) as path, self._present(key):
            source = self._opened(path, key, most)
        with source, self._explained("read", key), filling(target) as sink:

            def write(offset: int, chunk: bytes) -> None:
                refuse_larger(self.uri, key, offset + len(chunk), most)  # it may grow meanwhile
                sink.write_at(offset, chunk)

            return copy(source, write)

    def _opened(self, path: Path, key: str, most: int | None) -> IO[bytes]:
        """The file of a key, unbuffered. Of a pipe or a device, which would be waited for, nothing is read."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if not stat.S_ISREG(found.st_mode):
                raise IntegrityError(
                    f"store {self.uri}: {key!r} is no regular file; remove it, and restore a backup of it"
                )
            refuse_larger(self.uri, key, found.st_size, most)
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb", buffering=0)

    def _delete(self, key: str) -> None:
        with self._explained("delete", key) as path:
            path.unlink(missing_ok=True)

    def _list(self, prefix: str) -> Keys:
        keys: Keys = []
        with self._explained("list", prefix.rpartition("/")[0]) as top:
            for folder, names in self._walk(top):
                parent = folder.removeprefix(self.uri).lstrip("/")
                keys += [f"{parent}/{name}".lstrip("/") for name in names]
        return sorted(key for key in keys if key.startswith(prefix) and is_key(key))

    def _list_folders(self, prefix: str) -> Keys:
        with self._explained("list", prefix) as top:
            try:
                names = [entry.name for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                return []
            return sorted(n for n in names if is_key(f"{prefix}/{n}".lstrip("/")) and self._holds_objects(top / n))

    def _holds_objects(self, folder: Path) -> bool:
        return any(names for _, names in self._walk(folder))

    @staticmethod
    def _walk(top: Path) -> Iterator[tuple[str, Keys]]:
        """(folder, its files) for every folder at or below `top`; what is deleted meanwhile is passed over."""
        errors: list[OSError] = []
        for folder, _, names in os.walk(top, onerror=errors.append):
            yield folder, names
        if grave := [error for error in errors if not isinstance(error, FileNotFoundError)]:
            raise grave[0]

    @contextmanager
    def _present(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError):
            raise KeyAbsentError(f"store {self.uri}: no object {key!r}") from None

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[Path]:
        """Yields the path of a key, which no link may lead out of the folder, and explains errors of the disk."""
        path = self.root / key
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise StoreError(f"store {self.uri}: {key!r} leads out of the folder through a link; remove the link")
        try:
            if self.stands and not self.root.is_dir():
                raise StoreGoneError(
                    f"store {self.uri}: the folder is gone, and was there before: it was removed, renamed or "
                    "unmounted; put it back and run again"
                )
            yield path
            self.stands = self.stands or self.root.is_dir()
        except OSError as error:
            no_links = error.filename2 and error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
            fix = FIXES.get(error.errno or 0, "mend that, or use another folder")
            fix = "use a filesystem that has hard links" if no_links else fix
            kind = PassingError if error.errno in PASSING else DiskFullError if error.errno in FULL else StoreError
            raise kind(f"store {self.uri}: cannot {action} {error.filename or path}: {told(error)}; {fix}") from None

    @contextmanager
    def _written(self, path: Path, write: Callable[[IO[bytes]], T]) -> Iterator[tuple[Path, T]]:
        """Yields a whole, synced file that is to become `path`, and what `write` gave; then syncs the folder."""
        temporary = self.root / ".tmp" / uuid.uuid4().hex
        _make_folder(temporary.parent)
        _make_folder(path.parent)
        try:
            with temporary.open("wb") as file:
                result = write(file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary, result
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """`mkdir -p` that makes the entry of every new folder durable."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
