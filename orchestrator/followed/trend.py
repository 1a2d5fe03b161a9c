"""How recorded scores of a track went, and what of it is drift: pure functions of its records and their row scores.

A series are the scores of one task by one metric, with the same settings. Each score is compared with the first of its
series and with the one before, by the tests of `drift`. Both are needed: a slow drift is within the noise step by step.
Rows decide: those of the same digest are compared as pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.followed.drift import Change, Verdict, change
from orchestrator.followed.records import Record, RecordLog
from orchestrator.log.entry import Entry, JsonLike
from trainers.data.generative.config import OF_LOSS

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.01  # of significance, of each comparison
Values = Callable[[Record], "np.ndarray"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The comparison with an earlier score, that of entry `seq`, and what it says."""

    seq: int
    change: Change
    verdict: Verdict

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return {"entry": self.seq, "verdict": self.verdict, "paired": self.change.paired, **vars(self.change)}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A score of a series: its entry, and its comparisons with the first of the series and with the one before, None
    if there is none, or if that is the first."""

    entry: Entry
    record: Record
    first: Compared | None
    before: Compared | None

    @property
    def verdict(self) -> Verdict:
        """Worse if one comparison says so, else better if one does."""
        said = {each.verdict for each in (self.first, self.before) if each}
        return "worse" if "worse" in said else "better" if "better" in said else "within noise"

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return {
            "entry": self.entry.seq, "time": self.entry.time, "actor": self.entry.actor, **self.record.body(),
            "since_first": self.first.shown() if self.first else None,
            "since_before": self.before.shown() if self.before else None,
            "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Series:
    """The scores of a task, oldest first. `comparisons` is how many were made of all, at `level` each."""

    task: str
    metric: str
    settings: str
    points: Sequence[Point]
    level: float

    @property
    def by_loss(self) -> bool:
        """Whether the metric is a loss, lower is better."""
        return self.metric in OF_LOSS

    @property
    def comparisons(self) -> int:
        """That were made. By chance a share `level` of them is flagged."""
        return sum(each is not None for point in self.points for each in (point.first, point.before))

    @property
    def drifted(self) -> bool:
        """Whether the newest score is worse, outside the noise."""
        return bool(self.points) and self.points[-1].verdict == "worse"

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return {
            "task": self.task, "metric": self.metric, "settings": self.settings, "level": self.level,
            "comparisons": self.comparisons, "drifted": self.drifted,
            "points": [each.shown() for each in self.points],
        }  # fmt: skip


def trend(log: RecordLog, *, task: str | None = None, level: float = LEVEL, last: int | None = None) -> list[Series]:
    """The series of a track, in the order in which they began; of one task alone if it is named. `last` leaves out all
    but the newest scores of each; they are compared with its first all the same.

    Raises:
        IntegrityError: the log or a file of row scores was changed.
    """
    return series_of(log.records(), log.values, task=task, level=level, last=last)


def series_of(
    records: Iterable[tuple[Entry, Record]],
    values: Values,
    *,
    task: str | None = None,
    level: float = LEVEL,
    last: int | None = None,
) -> list[Series]:
    """As `trend`, of records and what gives their row scores."""
    found: dict[tuple[str, str, str], list[tuple[Entry, Record]]] = {}
    for entry, record in records:
        if task in (None, record.task):
            found.setdefault((record.task, record.metric, settings_told(record)), []).append((entry, record))
    return [
        Series(task=key[0], metric=key[1], settings=key[2], points=[*points(each, values, level, last)], level=level)
        for key, each in found.items()
    ]


def settings_told(record: Record) -> str:
    """The options that change answers, in words; empty if there are none."""
    return ", ".join(f"{name} {value}" for name, value in sorted(record.settings.items()))


def points(records: Sequence[tuple[Entry, Record]], values: Values, level: float, last: int | None) -> Iterator[Point]:
    """The scores of a series with their comparisons; each file of row scores is read once."""
    start = 0 if last is None else max(0, len(records) - last)
    known: dict[str, np.ndarray] = {}

    def read(record: Record) -> "np.ndarray":
        if record.scores_sha256 not in known:
            known[record.scores_sha256] = values(record)
        return known[record.scores_sha256]

    def compared(earlier: tuple[Entry, Record], record: Record) -> Compared:
        paired = (earlier[1].rows_sha256, earlier[1].rows) == (record.rows_sha256, record.rows)
        made = change(read(earlier[1]), read(record), paired=paired)
        return Compared(seq=earlier[0].seq, change=made, verdict=made.verdict(level))

    for place in range(start, len(records)):
        entry, record = records[place]
        first = compared(records[0], record) if place else None
        before = compared(records[place - 1], record) if place > 1 else None
        yield Point(entry=entry, record=record, first=first, before=before)
