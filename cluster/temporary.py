"""Temporary folders that belong to a process: nobody else can read them or guess their names, and what a killed process
leaves behind is removed by the next one.

    orthoplex-PID.START-WHAT-RANDOM        PID and START name the process, in base 36; START ends with its table's sign

A process that makes its first such folder, on any node, removes those of dead ones. The proof of death is that this
very process table (boot and namespace of ids) has no process of that id and that start time. Folders of other tables,
as of a container that shares /tmp, and of other users are left alone.
"""

import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.processes import Process, alive, kill, process_table, start_time, users_of

if TYPE_CHECKING:
    from cluster.storage.disk import Temporary

PREFIX = "orthoplex-"
SHORT = "/tmp"  # for paths of sockets, which have at most 107 bytes
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
GONE_S = 5.0  # that killed processes and their last files get
_places = {Path(SHORT)}  # where this process has made folders
_named = set[Path]()  # its folders with other names


def temporary(what: str = "", below: str | Path | None = None) -> "Temporary":
    """A new folder of this process, which `with` or `cleanup` removes. It lies in `below`, by default in $TMPDIR; its
    mode is 0700. Raises as `cluster.storage.disk.Temporary`."""
    from cluster.storage.disk import Temporary  # not before signals are listened to

    remove_left()
    made = Temporary(f"{owned()}{what}-" if what else owned(), below)
    _places.add(Path(made.name).parent)
    return made


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """`remove_own` removes the folder, which may have any name, as long as the block lasts."""
    _named.add(folder)
    try:
        yield
    finally:
        _named.discard(folder)


def owned(pid: int | None = None) -> str:
    """How names of folders begin that belong to a process, by default to this one."""
    pid = pid or os.getpid()
    return f"{PREFIX}{base36(pid)}.{base36(max(0, start_time(pid)))}{table()}-"


def owner(name: str) -> Process | None:
    """The process that a folder belongs to by its name; None if that is no name of ours, or of another table."""
    pid, _, start = name.removeprefix(PREFIX).partition("-")[0].partition(".")
    if not name.startswith(PREFIX) or not start.endswith(table()) or not table():
        return None
    with suppress(ValueError):
        return Process(int(pid, 36), int(start.removesuffix(table()), 36))
    return None


@cache
def table() -> str:
    """Four characters that stand for this process table; none if this machine does not tell."""
    known = process_table()
    return base36(int(hashlib.sha256(known.encode()).hexdigest(), 16))[-4:] if known else ""


@cache
def remove_left() -> None:
    """Removes the folders of dead processes, once per process. What of them still runs, such as their Ray, is ended."""
    places = {Path(SHORT)}
    with suppress(OSError):  # there may be none
        places.add(Path(tempfile.gettempdir()))
    for folder in [*folders(places)]:
        whose = owner(folder.name)
        if whose is not None and not alive(whose):
            remove(folder)


def remove_own() -> None:
    """Removes all folders of this process at once, and ends what uses them. Nothing can be made in them any more."""
    own = owned()
    for folder in [*_named, *folders(_places)]:
        if folder in _named or folder.name.startswith(own):
            remove(folder)


def folders(places: Iterable[Path]) -> Iterator[Path]:
    """This user's folders in `places` whose names may be ours."""
    for place in places:
        with suppress(OSError):
            for found in place.glob(f"{PREFIX}*"):
                with suppress(OSError):
                    if not found.is_symlink() and found.is_dir() and found.stat().st_uid == os.geteuid():
                        yield found


def remove(folder: Path) -> None:
    """Ends the processes that were started with the folder in their environment, and removes it. Something that writes
    to it meanwhile has `GONE_S` seconds to end."""
    end_users(folder)
    deadline = time.monotonic() + GONE_S
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        if folder.exists():
            time.sleep(0.05)


def end_users(folder: Path) -> None:
    """Kills the processes that were started with the folder in their environment, and waits for their end."""
    deadline = time.monotonic() + GONE_S
    users = users_of(folder)
    for process in users:
        with suppress(OSError):
            kill(process, signal.SIGKILL)
    while any(map(alive, users)) and time.monotonic() < deadline:
        time.sleep(0.02)


def base36(number: int) -> str:
    """A number that is not negative, with the digits 0 to 9 and a to z."""
    digits = DIGITS[number % 36]
    while number := number // 36:
        digits = DIGITS[number % 36] + digits
    return digits
