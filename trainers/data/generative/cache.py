"""What is kept of large data on this machine: prepared rows and their tokens, each under a digest of what made them.

It stands in $ORTHOPLEX_STATE/data or ~/.cache/orthoplex/data and takes at most $ORTHOPLEX_DATA_CACHE_GIB (default 20).
Beyond that, what was not used for longest is removed when something is added. Processes may share it: an entry appears
whole, what was used within GRACE_S is never removed, and files that another process has mapped stay readable to it.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ConfigError, DataError
from cluster.folders import appearing
from cluster.storage.disk import STATE_VARIABLE, refusal, state_folder

LIMIT, DEFAULT_GIB = "ORTHOPLEX_DATA_CACHE_GIB", 20.0
GRACE_S = 3_600.0  # since the last use of an entry; whoever asks for one has opened it long before
LEFT_S = 86_400.0  # age of a hidden folder that a killed process has left


def cache_folder() -> Path:
    """Where it is."""
    return state_folder().absolute() / "data"


def limit_bytes() -> float:
    """How much it may take. Raises ConfigError if the variable holds no number from 0."""
    given = os.environ.get(LIMIT, str(DEFAULT_GIB))
    try:
        gib = float(given)
    except ValueError:
        gib = -1.0
    if not gib >= 0:
        raise ConfigError(f"{LIMIT}: {given!r} is no size; give a number of GiB from 0, for instance {DEFAULT_GIB:g}")
    return gib * 2**30


def cached(key: str, fill: Callable[[Path], None]) -> Path:
    """The entry of a key, which `fill` makes if it is not there.

    Raises:
        DataError: this machine's disk does not take it.
    """
    folder, most = cache_folder() / key, limit_bytes()
    if not used(folder):
        with caching(folder) as staging:
            fill(staging)
        trim(folder.parent, most)
    return folder


def used(folder: Path) -> bool:
    """Whether an entry is there; it then counts as used now."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    except OSError:  # of another user
        pass
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def caching(folder: Path) -> Iterator[Path]:
    """A folder of the cache to fill. If another process has filled it meanwhile, its content stays."""
    try:
        with appearing(folder) as staging:
            yield staging
    except OSError as error:
        if not folder.is_dir() or not any(folder.iterdir()):
            where = f"data cache {str(folder.parent)!r}"
            raise DataError(str(refusal(where, error, f"name another folder in {STATE_VARIABLE}"))) from None


def trim(root: Path, most_bytes: float) -> list[str]:
    """Removes entries, the least recently used first, until the rest takes at most `most_bytes`; returns their names.

    Entries in their period of grace stay, so the rest may take more.
    """
    now, total, removed = time.time(), 0, list[str]()
    for used_at, size, folder in sorted(entries(root), reverse=True):
        total += size
        hidden = folder.name.startswith(".")
        if now - used_at > (LEFT_S if hidden else GRACE_S) and (hidden or total > most_bytes):
            remove(folder)
            total -= size
            removed += [] if hidden else [folder.name]
    return removed


def entries(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Each folder with when it was used last (Unix time) and its bytes; what goes away meanwhile is passed over."""
    for folder in root.iterdir():
        try:
            if folder.is_dir():
                yield folder.stat().st_mtime, sum(path.stat().st_size for path in folder.rglob("*")), folder
        except OSError:
            continue


def remove(folder: Path) -> None:
    """Takes an entry away at once, and then its files; does nothing if another process has."""
    gone = folder.with_name(f".{folder.name.lstrip('.')[:40]}.{uuid.uuid4().hex}")
    try:
        folder.rename(gone)
    except OSError:
        return
    shutil.rmtree(gone, ignore_errors=True)
