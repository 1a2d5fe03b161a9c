"""Copies versions from the store into a folder. Every byte is checked; the folder is whole or absent; nothing is
fetched twice.

Files land in a cache by digest ($ORTHOPLEX_STATE/files, ~/.cache/orthoplex/files). From there they are copied into the
folder, which appears at once; they are the user's to change. A filesystem that can let files share blocks does so. A
pull that was cut goes on with the files that it had fetched.
"""

import fcntl
import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, IntegrityError, KeyAbsentError
from cluster.folders import appearing, file_digest
from cluster.storage import FileRecord
from cluster.storage.disk import STATE_VARIABLE, DiskError, refusal, state_folder, writing
from orchestrator.log.entry import canonical, digest
from orchestrator.track.events import Commit
from orchestrator.track.layout import MANIFEST
from orchestrator.track.track import Track, manifest_files
from trainers.data.answers import ANSWERS
from trainers.data.row_scores import ROWS

FETCHERS = 8
FICLONE = 0x40049409  # ioctl_ficlone(2)


def pull(track: Track, versions: Mapping[str, Commit], directory: Path) -> int:
    """Makes `directory`, absent or empty, with the files (see `shared`) and manifest of each commit below its name in
    `versions` ("": the folder itself); returns the bytes. A folder that already holds exactly these files is left as it
    is.

    Raises:
        IntegrityError: a file is missing or differs from the digest that the log vouches for.
        ConfigError: the folder holds something else. StoreError: it cannot be made.
    """
    wanted: dict[str, FileRecord] = {}
    manifests: dict[str, bytes] = {}
    with ThreadPoolExecutor(FETCHERS) as pool:
        read = pool.map(track.manifest_of, versions.values())
        for (below, commit), manifest in zip(versions.items(), read, strict=True):
            manifests[f"{below}/{MANIFEST}".lstrip("/")] = canonical(manifest)
            for path, record in shared(manifest).items():
                key = f"{commit.prefix}/{path}"
                wanted[f"{below}/{path}".lstrip("/")] = FileRecord(key, record.size, record.sha256)
    if _occupied(directory):
        _same_or_refuse(directory, wanted, manifests)
    else:
        _make(track, wanted, manifests, directory)
    return sum(record.size for record in wanted.values())


def shared(manifest: Mapping[str, Any]) -> dict[str, FileRecord]:
    """The files of a version, but for kept answers and row scores: they hold rows of the data, or are about them."""
    return {path: record for path, record in manifest_files(manifest).items() if path not in (ANSWERS, ROWS)}


def _make(track: Track, wanted: Mapping[str, FileRecord], manifests: Mapping[str, bytes], directory: Path) -> None:
    def place(staging: Path, item: tuple[str, FileRecord]) -> None:
        target = staging / item[0]
        if not target.resolve().is_relative_to(staging.resolve()):
            raise IntegrityError(f"{item[1].path}: the path leads out of its folder; do not use this version")
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(cached(track, item[1]), target)

    try:
        with appearing(directory.absolute()) as staging, ThreadPoolExecutor(FETCHERS) as pool:
            list(pool.map(partial(place, staging), wanted.items()))
            for path, data in manifests.items():
                (staging / path).parent.mkdir(parents=True, exist_ok=True)
                (staging / path).write_bytes(data)
    except OSError as error:
        raise refusal(f"cannot make {directory}", error, "choose another folder") from None


def cached(track: Track, record: FileRecord) -> Path:
    """The cache's copy of a stored file, fetched if it is absent or incomplete. `record.path` is its key.

    Raises IntegrityError if the store's file is missing or differs from the record, and StoreError if the disk refuses.
    """
    kept = state_folder() / "files" / record.sha256[:2] / record.sha256
    if kept.is_file() and kept.stat().st_size == record.size and file_digest(kept) == record.sha256:
        return kept
    temporary = kept.with_name(f".{uuid.uuid4().hex}.tmp")
    with writing(f"the cache of files, {kept.parent}", f"name another folder in {STATE_VARIABLE}"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = track.store.download(record.path, temporary, record.size)
            record.check(record.path, *found)
            temporary.chmod(0o444)
            temporary.replace(kept)
        except DiskError as error:
            raise OSError(error.number, str(error)) from None
        except KeyAbsentError:
            missing = f"store {track.store.uri}: {record.path} is missing; restore it from a backup"
            raise IntegrityError(missing) from None
        finally:
            temporary.unlink(missing_ok=True)
    return kept


def _copy(source: Path, target: Path) -> None:
    """Copies a file, without its blocks if the filesystem lets two files share them until one is changed."""
    try:
        with source.open("rb") as old, target.open("wb") as new:
            fcntl.ioctl(new, FICLONE, old.fileno())
    except OSError:  # another filesystem, or one that cannot
        shutil.copyfile(source, target)


def _occupied(directory: Path) -> bool:
    try:
        return directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    except OSError as error:
        raise ConfigError(f"DIR {str(directory)!r}: {error.strerror}; choose another folder") from None


def _same_or_refuse(directory: Path, wanted: Mapping[str, FileRecord], manifests: Mapping[str, bytes]) -> None:
    expected = {path: record.sha256 for path, record in wanted.items()}
    expected |= {path: digest(data) for path, data in manifests.items()}
    files = [path for path in directory.rglob("*") if path.is_file()] if directory.is_dir() else []
    found = {path.relative_to(directory).as_posix(): path for path in files}
    if found.keys() != expected.keys() or any(file_digest(path) != expected[name] for name, path in found.items()):
        raise ConfigError(f"DIR {str(directory)!r}: holds something else; choose a folder that is new or empty")
