"""Which driver may write a run's log: the one whose `start` entry is the newest, until it ends or falls silent.

Every entry of a driver carries `lease`, the seq of its `start`; a commit under any other is void. While it has nothing
to say a driver renews. No clock is compared with another machine's: who wants to take over watches for as long as the
lease says, by its own clock, and takes over only where nothing new was written in that time.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.processes import start_time


@dataclass(frozen=True)
class DriverProcess:
    """A driver's process. `space` names the process table that knows `pid` (boot and namespace), empty where that
    cannot be told; `started` is when it began, in that kernel's ticks, so that a reused pid is another process."""

    host: str
    pid: int
    space: str
    started: int


def this_process() -> DriverProcess:
    """The process that runs this code."""
    return DriverProcess(socket.gethostname(), os.getpid(), _space(), start_time(os.getpid()))


def standing(driver: Mapping[str, Any], here: DriverProcess) -> Literal["alive", "gone", "unknown"]:
    """Whether the driver of a `start` entry still runs, as far as this machine can tell."""
    other = DriverProcess(**driver)
    if not here.space or other.space != here.space:
        return "unknown"
    if other.pid == here.pid:
        return "gone"  # an earlier run of this very process
    return "alive" if start_time(other.pid) == other.started else "gone"


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
