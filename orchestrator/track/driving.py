"""Who drives a log, and how its last driver left it. The logs of runs and of sweeps share this part.

A driver's entries carry `lease`, the seq of its `start` entry. After another `start`, entries under an earlier lease
are void. A driver that leaves writes an ending.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.log.entry import Entry
from orchestrator.log.event import lease_of, parse
from orchestrator.track.aside import ASIDE_OPS
from orchestrator.track.events import ENDINGS, CheckpointTold, Commit, Finish, Open, Position, Renew, Start

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
    that entry has it. `checkpoint` is the one that a driver of the task in training named last.
    """

    status: Status = "absent"
    reason: str | None = None
    driver: Driver | None = None
    heard: Entry | None = None
    progress: Position | None = None
    in_vain: bool = False
    checkpoint: CheckpointTold | None = None

    @property
    def told(self) -> str | None:
        """`reason` in words, None if there is none."""
        title = "a later start changed nothing" if self.in_vain else "reason"
        return f"{title}: {self.reason}" if self.reason else None


class Counting:
    """Says which entries count, one after the other: all but those of a driver that was taken over from."""

    def __init__(self) -> None:
        self.lease: int | None = None

    def __call__(self, entry: Entry) -> bool:
        """Whether the next entry counts."""
        if lease_of(entry, self.lease) != self.lease:
            return False
        if entry.op == Start.op:
            self.lease = entry.seq
        return True


def counted(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries that count, in order, see `Counting`."""
    return filter(Counting(), entries)


class Drivers:
    """Replays entries that count, one after the other: `now` says who drives, and how the last driver left.

    A finished log stays so if a driver takes it up and leaves before it has written anything of its own.
    """

    def __init__(self) -> None:
        self.now = Driving()
        self._changed_to: Status = "absent"  # what it became by entries that say more than that a driver is there

    def take(self, entry: Entry) -> None:
        """Takes the next entry."""
        if entry.op in ASIDE_OPS:
            return
        self.now = replace(self.now, heard=entry, **self._told(entry))

    def _told(self, entry: Entry) -> dict[str, Any]:
        """The fields that an entry changes."""
        if entry.op == Renew.op:
            progress = parse(entry, Renew).progress
            kept = progress.checkpoint if progress else None
            return {"progress": progress, **({"checkpoint": kept} if kept else {})}
        found: dict[str, Any] = {"progress": None, **({"checkpoint": None} if entry.op == Commit.op else {})}
        if entry.op in (Start.op, Open.op):
            found |= {"status": "running", "reason": None, "in_vain": False}
        if entry.op == Start.op:
            found["driver"] = Driver(seq=entry.seq, actor=entry.actor, time=entry.time, start=parse(entry, Start))
        elif ending := _ENDINGS.get(entry.op):
            vain = self._changed_to == "finished" and ending is not Finish
            self._changed_to = "finished" if vain else ending.status
            reason = parse(entry, ending).reason
            found |= {"status": self._changed_to, "in_vain": vain, "reason": reason, "driver": None}
        else:
            self._changed_to = "running"
        return found


def driving(entries: Iterable[Entry]) -> Driving:
    """Replays the entries of `counted`, see `Drivers`."""
    drivers = Drivers()
    for entry in entries:
        drivers.take(entry)
    return drivers.now
