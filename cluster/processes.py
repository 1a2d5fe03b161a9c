"""Processes of this machine, which are not confused with later ones of the same id."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process by its id and `start`, its start time in clock ticks since boot, since ids are used again."""

    pid: int
    start: int


def identify(pid: int) -> Process:
    """The process that has this id now; `start` is −1 if there is none."""
    return Process(pid, start_time(pid))


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process (field 22 of /proc/PID/stat); −1 for none or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] == "Z" else int(fields[19])


def alive(process: Process) -> bool:
    """Whether this very process, not a later one under its id, is running."""
    return process.start >= 0 and start_time(process.pid) == process.start


def descendants(pid: int) -> list[Process]:
    """All processes that `pid` started, and those they started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [process for child in children for process in (identify(child), *descendants(child))]


def kill(process: Process, number: signal.Signals) -> None:
    """Sends a signal to the process if it is still running."""
    if alive(process):
        os.kill(process.pid, number)


def process_table() -> str:
    """Names the table in which ids of processes are unique: the boot of this machine and the namespace of ids; empty if
    the machine does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def users_of(folder: Path) -> list[Process]:
    """This user's other processes that were started with the path of the folder, or of something in it, in a variable
    of their environment."""
    path, found = os.fsencode(folder), list[Process]()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            process = identify(int(entry.name))
            variables = (entry / "environ").read_bytes().split(b"\0")
            values = (variable.partition(b"=")[2] for variable in variables)
            if process.pid != os.getpid() and any(v == path or v.startswith(path + b"/") for v in values):
                found.append(process)
    return found
