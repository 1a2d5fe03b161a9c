"""The process that drives a run, told from others; and by which rule it may write the run's log (see `driver_log`).

The driver whose `start` entry is the newest may write, until it ends or falls silent.

Every entry of a driver carries `lease`, the seq of its `start`; a commit under any other is void. A driver with nothing
to log renews its lease. Clocks of machines are never compared: a driver that wants to take over watches the log for the
length of the lease, by its own clock, and takes over only if nothing new was written in that time.
"""

import os
import socket
from typing import Literal

from cluster.processes import process_table, start_time
from orchestrator.track.events import Process


def this_process() -> Process:
    """The process that runs this code."""
    pid = os.getpid()
    return Process(host=socket.gethostname(), pid=pid, space=process_table(), started=start_time(pid))


def standing(other: Process, here: Process) -> Literal["alive", "gone", "unknown"]:
    """Whether the driver of a `start` entry still runs, as far as this machine can tell."""
    if not here.space or other.space != here.space:
        return "unknown"
    if other.pid == here.pid:
        return "gone"  # an earlier run of this very process
    return "alive" if start_time(other.pid) == other.started else "gone"
