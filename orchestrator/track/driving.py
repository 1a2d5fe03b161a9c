"""Who drives a log, and how its last driver left it: what the logs of runs and of sweeps have in common.

A driver's entries carry `lease`, the seq of its `start` entry. Where another `start` follows, what is still written
under the lease before is void. A driver that leaves says so with an ending.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.log.entry import Entry
from orchestrator.track.events import ASIDE, ENDINGS, Open, Position, Renew, Start, lease_of, parse

Status = Literal["absent", "running", "finished", "stopped", "interrupted", "failed"]
_ASIDE_OPS = frozenset(kind.op for kind in ASIDE)
_ENDINGS = {kind.op: kind for kind in ENDINGS}


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A driver that holds a log: its `start` entry, whose `seq` is its lease."""

    seq: int
    actor: str
    time: str
    start: Start


@dataclass(frozen=True, kw_only=True)
class Driving:
    """What a log says of its drivers.

    `driver` holds the log, None if it has left; `reason` is why it left. `heard` is the newest entry of any driver, and
    `progress` where the task in training stood, if that entry says so.
    """

    status: Status = "absent"
    reason: str | None = None
    driver: Driver | None = None
    heard: Entry | None = None
    progress: Position | None = None


def counted(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries that count, in order: all but those of a driver that was taken over from."""
    lease: int | None = None
    for entry in entries:
        if lease_of(entry, lease) == lease:
            if entry.op == Start.op:
                lease = entry.seq
            yield entry


def driving(entries: Iterable[Entry]) -> Driving:
    """Replays what `counted` gives: who drives, and how it was left."""
    status: Status = "absent"
    reason, driver, heard = None, None, None
    for entry in entries:
        if entry.op in _ASIDE_OPS:
            continue
        heard = entry
        if entry.op in (Start.op, Open.op):
            status, reason = "running", None
        if entry.op == Start.op:
            driver = Driver(seq=entry.seq, actor=entry.actor, time=entry.time, start=parse(entry, Start))
        elif ending := _ENDINGS.get(entry.op):
            status, reason, driver = ending.status, parse(entry, ending).reason, None
    progress = parse(heard, Renew).progress if heard and heard.op == Renew.op else None
    return Driving(status=status, reason=reason, driver=driver, heard=heard, progress=progress)
