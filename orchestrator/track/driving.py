"""Who drives a log, and how its last driver left it. The logs of runs and of sweeps share this part.

A driver's entries carry `lease`, the seq of its `start` entry. After another `start`, entries under an earlier lease
are void. A driver that leaves writes an ending.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.log.entry import Entry
from orchestrator.log.event import lease_of, parse
from orchestrator.track.events import (
    ASIDE_OPS,
    ENDINGS,
    CheckpointTold,
    Commit,
    Finish,
    Open,
    Position,
    Renew,
    Start,
)

Status = Literal["absent", "running", "finished", "stopped", "interrupted", "failed"]
_ENDINGS = {kind.op: kind for kind in ENDINGS}


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A driver that holds a log: its `start` entry, whose `seq` is its lease."""

    seq: int
    actor: str
    time: str
    start: Start

    @property
    def shown(self) -> str:
        """The driver, for people."""
        return f"{self.actor} (pid {self.start.driver.pid}, since {self.time})"


@dataclass(frozen=True, kw_only=True)
class Driving:
    """The drivers of a log.

    `driver` holds the log, None if it has left; `reason` is why it left, `in_vain` whether it took up a finished log
    and left it so. `heard` is the newest entry of any driver, and `progress` the position of the task in training, if
    that entry has it.
    """

    status: Status = "absent"
    reason: str | None = None
    driver: Driver | None = None
    heard: Entry | None = None
    progress: Position | None = None
    in_vain: bool = False

    @property
    def told(self) -> str | None:
        """`reason` in words, None if there is none."""
        title = "a later start changed nothing" if self.in_vain else "reason"
        return f"{title}: {self.reason}" if self.reason else None


def checkpoint_told(entries: Sequence[Entry]) -> CheckpointTold | None:
    """The checkpoint that a driver of the task in training named last; None if none has since the last commit."""
    for entry in reversed([*counted(entries)]):
        if entry.op == Commit.op:
            return None
        if entry.op == Renew.op and (progress := parse(entry, Renew).progress) and progress.checkpoint:
            return progress.checkpoint
    return None


def counted(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries that count, in order: all but those of a driver that was taken over from."""
    lease: int | None = None
    for entry in entries:
        if lease_of(entry, lease) == lease:
            if entry.op == Start.op:
                lease = entry.seq
            yield entry


def driving(entries: Iterable[Entry]) -> Driving:
    """Replays the entries of `counted`: who drives, and how the last driver left.

    A finished log stays so if a driver takes it up and leaves before it has written anything of its own.
    """
    status: Status = "absent"
    changed_to: Status = status  # what it became by entries that say more than that a driver is there
    reason, driver, heard, in_vain = None, None, None, False
    for entry in entries:
        if entry.op in ASIDE_OPS:
            continue
        heard = entry
        if entry.op in (Start.op, Open.op):
            status, reason, in_vain = "running", None, False
        if entry.op == Start.op:
            driver = Driver(seq=entry.seq, actor=entry.actor, time=entry.time, start=parse(entry, Start))
        elif ending := _ENDINGS.get(entry.op):
            in_vain = changed_to == "finished" and ending is not Finish
            status = changed_to = "finished" if in_vain else ending.status
            reason, driver = parse(entry, ending).reason, None
        elif entry.op != Renew.op:
            changed_to = "running"
    progress = parse(heard, Renew).progress if heard and heard.op == Renew.op else None
    return Driving(status=status, reason=reason, driver=driver, heard=heard, progress=progress, in_vain=in_vain)
