"""A folder that appears whole, or not at all; and the digest of a file."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.temporary import owning


@contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """A folder to fill, beside `directory`, which becomes it when the block ends. If the block fails, nothing is left.
    Its files get the mode that the umask gives new files, whoever wrote them: safetensors lets nobody else read its.

    `directory` must be absolute, and absent or an empty folder by then. Raises OSError of the disk.
    """
    staging = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    with owning(staging):
        try:
            staging.mkdir(parents=True)
            yield staging
            _as_new(staging)
            staging.replace(directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _as_new(folder: Path) -> None:
    """Gives all files below the folder the mode of a new file."""
    probe = folder / uuid.uuid4().hex
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
