"""Moves folders of files to a store and back. All bytes are digested meanwhile; small files are moved in parallel."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cluster.errors import IntegrityError
from cluster.storage.disk import writing
from cluster.storage.interface import Content, Store, is_key
from cluster.temporary import temporary

SMALL_BYTES, THREADS = 16 << 20, 16
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class FileRecord:
    """A file as a manifest lists it: `path` relative to its folder, `size` in bytes, `sha256` in hex."""

    path: str
    size: int
    sha256: str

    def check(self, key: str, size: int, sha256: str) -> None:
        """Raises IntegrityError if the object at `key` has another size or digest."""
        if (size, sha256) != (self.size, self.sha256):
            raise IntegrityError(f"{key}: differs from its manifest (sha256 {self.sha256}); it was changed")


def upload_files(store: Store, prefix: str, directory: Path) -> list[FileRecord]:
    """Puts every file below `directory` under `prefix`/, and reads each once. Returns their records, by path."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in paths]

    def send(name: str) -> Content:
        return store.upload(f"{prefix}/{name}", directory / name)

    contents = spread(send, names, [path.stat().st_size for path in paths])
    return [FileRecord(name, *content) for name, content in zip(names, contents, strict=True)]


def upload_contents(store: Store, prefix: str, files: Mapping[str, bytes]) -> list[FileRecord]:
    """As `upload_files`, of bytes by path."""
    with temporary("upload") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        return upload_files(store, prefix, Path(folder))


def download_files(store: Store, prefix: str, records: Sequence[FileRecord], directory: Path) -> None:
    """Copies the files that `records` list from `prefix`/ into `directory`, and checks size and sha256 of each.

    Raises:
        IntegrityError: a file differs from its record, or its path is unsafe or leads out of `directory`.
        KeyAbsentError: one is absent. In either case files that arrived before stay.
    """
    for record in records:
        inside = (directory / record.path).resolve().is_relative_to(directory.resolve())
        if not (is_key(record.path) and inside):
            raise IntegrityError(f"{prefix}: the path {record.path!r} is not safe, or leads out of its folder")

    def receive(record: FileRecord) -> None:
        target = directory / record.path
        with writing(str(target), "choose another folder"):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            record.check(f"{prefix}/{record.path}", *store.download(f"{prefix}/{record.path}", target, record.size))
        except IntegrityError:
            target.unlink(missing_ok=True)
            raise

    spread(receive, records, [record.size for record in records])


def spread(action: Callable[[T], R], items: Sequence[T], sizes: Sequence[int]) -> list[R]:
    """The results of `action` for the items, in order. Small items run THREADS at a time, large ones one by one."""
    results: dict[int, R] = {}
    small = [number for number, size in enumerate(sizes) if size < SMALL_BYTES]
    if small:
        with ThreadPoolExecutor(min(THREADS, len(small))) as pool:
            results.update(zip(small, pool.map(lambda number: action(items[number]), small), strict=True))
    return [results[number] if number in results else action(item) for number, item in enumerate(items)]
