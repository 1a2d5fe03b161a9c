"""A folder that appears whole, or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """A folder to fill, beside `directory`, which becomes it when the block ends. If the block fails, nothing is left.

    `directory` must be absolute, and absent or an empty folder by then. Raises OSError of the disk.
    """
    staging = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    try:
        staging.mkdir(parents=True)
        yield staging
        staging.replace(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
