"""What happened in a period to the streams of a store or a team, read from their logs: `orthoplex review`.

What was learned and what it cost; which aliases were moved, by whom and why; which rules and settings were changed;
which thresholds were met; how recorded scores went. Times are those of the logs, by the clocks of those who wrote them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from cluster.errors import ConfigError
from cluster.storage import Store
from orchestrator.followed.changed import Changed, config_changes, rule_changes
from orchestrator.followed.records import records_of
from orchestrator.followed.trend import LEVEL, Series, trend
from orchestrator.log.decision import Value, stops
from orchestrator.log.entry import Entry, JsonLike
from orchestrator.log.event import Decided, decided, events, parse
from orchestrator.track.aside import Approval
from orchestrator.track.events import ENDINGS, Finish, Quarantine
from orchestrator.track.layout import list_tracks
from orchestrator.track.moves import moves
from orchestrator.track.rules import RulesLog
from orchestrator.track.spending import Spent, spent
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track

DEFAULT_DAYS = 30
EARLIEST = datetime.min.replace(tzinfo=UTC) + timedelta(days=DEFAULT_DAYS)  # a period that ends before is empty
_ENDED = {kind.op: kind for kind in ENDINGS if kind is not Finish}


@dataclass(frozen=True, kw_only=True)
class Period:
    """From `since` on, before `until`, both in UTC."""

    since: datetime
    until: datetime

    def holds(self, time: str) -> bool:
        """Whether a time of a log entry is in it."""
        return self.since <= datetime.fromisoformat(time) < self.until

    def within(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries that were written in it."""
        return [entry for entry in entries if self.holds(entry.time)]


@dataclass(frozen=True, kw_only=True)
class LearnedThen:
    """A task that was committed. AA, a fraction, is of the test splits of all tasks up to it; None: not measured."""

    ref: str
    task: str
    time: str
    actor: str
    average_accuracy: float | None
    active_parameters: int | None
    bytes: int


@dataclass(frozen=True, kw_only=True)
class MovedThen:
    """An alias that was moved; `before` is the version that it named, None if none. `held` are the bounds it met,
    `set_aside` those that its mover overrode."""

    track: str
    alias: str
    kind: Literal["promote", "rollback"]
    before: int | None
    version: int
    time: str
    actor: str
    why: str
    held: Sequence[str]
    set_aside: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class SaidThen:
    """What a person said of a version, or what a guard did with a task that would have been one: `pending`, `approved`,
    `rejected`, `quarantined`."""

    ref: str
    said: str
    time: str
    actor: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """How often a rule was judged in a stream, and how often it was broken; the newest measured value and its bound."""

    track: str
    rule: str
    judged: int
    broken: int
    measured: Value
    bound: Value
    time: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A driver that left before the end: a guard, an error, Ctrl-C."""

    track: str
    status: str
    time: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class ScoredThen:
    """The scores of a series that were recorded in the period: how many, how many of them were flagged as worse or
    better; the last one of all, its version, and its verdict."""

    track: str
    task: str
    metric: str
    records: int
    worse: int
    better: int
    score: float
    version: int
    verdict: str
    time: str


@dataclass(frozen=True, kw_only=True)
class CostThen:
    """What the tasks that a run trained in the period took."""

    track: str
    tasks: int
    train_s: float
    evaluate_s: float
    gpu_hours: float
    money: float | None
    currency: str | None


@dataclass(frozen=True, kw_only=True)
class Review:
    """A period's page. `scope` says what was looked at, `totals` are of the lists below."""

    scope: str
    since: str
    until: str
    tracks: int
    learned: Sequence[LearnedThen]
    moved: Sequence[MovedThen]
    said: Sequence[SaidThen]
    changed: Sequence[Changed]
    thresholds: Sequence[Threshold]
    ended: Sequence[Ended]
    scored: Sequence[ScoredThen]
    cost: Sequence[CostThen]

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return asdict(self)


def period(since: str | None, until: str | None, now: datetime | None = None) -> Period:
    """From a day or time (ISO 8601; UTC if it names no zone) to another; a day that ends it is part of it. By default
    it ends now, and has 30 days. Raises ConfigError if one is no time, or it is empty."""
    end = moment("--to", until, last=True) if until else now or datetime.now(UTC)
    start = moment("--from", since, last=False) if since else max(end, EARLIEST) - timedelta(days=DEFAULT_DAYS)
    if start >= end:
        raise ConfigError(f"--from {start:%Y-%m-%dT%H:%M}: is not before --to {end:%Y-%m-%dT%H:%M}")
    return Period(since=start, until=end)


def moment(option: str, text: str, *, last: bool) -> datetime:
    """The time that an option names; the end of the day if it is a day and `last`."""
    try:
        found = datetime.fromisoformat(text)
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        return found + timedelta(days=1) if last and is_day(text) else found
    except (ValueError, OverflowError):
        raise ConfigError(f"{option} {text!r}: no day or time; write it as 2026-01-31, or 2026-01-31T12:00") from None


def is_day(text: str) -> bool:
    """Whether a time is a day, however ISO 8601 writes it."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def review(tracks: Sequence[Track], when: Period, *, scope: str, level: float = LEVEL) -> Review:
    """The page of a period, of these tracks and the rules of their teams. Raises IntegrityError if a log or a file of
    row scores was changed."""
    read = [(track, track.entries()) for track in tracks]
    states = [replay(track.team, track.name, entries) for track, entries in read]
    both = [(track, entries, state) for (track, entries), state in zip(read, states, strict=True)]
    changes = [each for track, entries, _ in both for each in config_changes(track.label, entries)]
    for team in sorted({track.team for track in tracks}):
        changes += rule_changes(RulesLog(tracks[0].store, team))
    return Review(
        scope=scope,
        since=when.since.isoformat(timespec="minutes"),
        until=when.until.isoformat(timespec="minutes"),
        tracks=len(tracks),
        learned=[each for _, entries, state in both for each in learned_in(state, entries, when)],
        moved=[each for track, entries, _ in both for each in moved_in(track.label, entries, when)],
        said=[each for track, entries, _ in both for each in said_in(track.label, entries, when)],
        changed=sorted((each for each in changes if when.holds(each.time)), key=lambda each: each.time),
        thresholds=[each for track, entries, _ in both for each in thresholds_in(track.label, entries, when)],
        ended=[each for track, entries, _ in both for each in ended_in(track.label, entries, when)],
        scored=[each for track in tracks for each in scored_in(track, when, level)],
        cost=[each for state in states for each in cost_in(state, when)],
    )


def tracks_of(store: Store, team: str | None) -> list[Track]:
    """All tracks of a store, or of a team."""
    return [Track(store, *names) for names in list_tracks(store, team)]


def learned_in(state: RunState, entries: Sequence[Entry], when: Period) -> Iterator[LearnedThen]:
    """The tasks that were committed, in order."""
    who = {entry.seq: entry.actor for entry in entries}
    for commit in state.commits:
        if when.holds(commit.time):
            yield LearnedThen(
                ref=state.reference(commit), task=commit.task, time=commit.time, actor=who[commit.seq],
                average_accuracy=state.upto(commit.version).metrics("test")["aa"],
                active_parameters=commit.active_parameters, bytes=commit.stored_bytes,
            )  # fmt: skip


def moved_in(label: str, entries: Sequence[Entry], when: Period) -> Iterator[MovedThen]:
    """The moves of aliases that count."""
    by_seq = {entry.seq: entry for entry in entries}
    named: dict[str, int] = {}
    for move in moves(entries):
        before = named.get(move.name)
        named[move.name] = move.version
        if when.holds(move.time):
            entry = by_seq[move.seq]
            judged = [each.decision for each in decided([entry])]
            yield MovedThen(
                track=label, alias=move.name, kind="promote" if entry.op == "promote" else "rollback", before=before,
                version=move.version, time=move.time, actor=move.actor, why=move.why,
                held=[made.reason for made in judged if made.verdict == "go_on"],
                set_aside=stops(judged) or rejected_before(entries, move.version, move.seq),
            )  # fmt: skip


def rejected_before(entries: Sequence[Entry], version: int, seq: int) -> list[str]:
    """Who had rejected a version before an entry; empty if that was not the last word. An older Orthoplex went back to
    such a version without a decision."""
    said = [each for each in events(entries, Approval) if each[1].version == version and each[0].seq < seq]
    if not said or said[-1][1].state != "rejected":
        return []
    entry, word = said[-1]
    return [f"v{version} is rejected by {entry.actor}, {entry.time}: {word.why}"]


def said_in(label: str, entries: Sequence[Entry], when: Period) -> Iterator[SaidThen]:
    """Words on versions, and quarantines with what broke."""
    found = when.within(entries)
    said = [(entry, event.version, str(event.state), event.why) for entry, event in events(found, Approval)]
    for entry, event in events(found, Quarantine):
        why = "; ".join(stops(each.decision for each in decided([entry])))
        said.append((entry, event.version, "quarantined", why))
    for entry, version, what, why in sorted(said, key=lambda each: each[0].seq):
        yield SaidThen(ref=f"{label}@v{version}", said=what, time=entry.time, actor=entry.actor, why=why)


def thresholds_in(label: str, entries: Sequence[Entry], when: Period) -> Iterator[Threshold]:
    """The rules that compare a measured value with a bound, in the order in which they were judged first."""
    found: dict[str, list[Decided]] = {}
    for each in decided(when.within(entries)):
        if each.decision.bound is not None and each.decision.verdict in ("go_on", "stop", "warn"):
            found.setdefault(each.decision.rule, []).append(each)
    for rule, judged in found.items():
        newest = judged[-1]
        yield Threshold(
            track=label, rule=rule, judged=len(judged),
            broken=sum(each.decision.verdict != "go_on" for each in judged),
            measured=newest.decision.measured, bound=newest.decision.bound, time=newest.entry.time,
            reason=newest.decision.reason,
        )  # fmt: skip


def ended_in(label: str, entries: Sequence[Entry], when: Period) -> Iterator[Ended]:
    """Runs that ended before their end."""
    for entry in when.within(entries):
        if kind := _ENDED.get(entry.op):
            yield Ended(track=label, status=kind.status, time=entry.time, reason=parse(entry, kind).reason)


def scored_in(track: Track, when: Period, level: float) -> Iterator[ScoredThen]:
    """The series of recorded scores that have some in the period."""
    for series in trend(records_of(track), level=level):
        if found := scored_of(track.label, series, when):
            yield found


def scored_of(label: str, series: Series, when: Period) -> ScoredThen | None:
    """What a series has in the period; None if nothing."""
    points = [point for point in series.points if when.holds(point.entry.time)]
    if not points:
        return None
    said = [point.verdict for point in points]
    return ScoredThen(
        track=label, task=series.task, metric=series.metric, records=len(points), worse=said.count("worse"),
        better=said.count("better"), score=points[-1].record.score, version=points[-1].record.version,
        verdict=said[-1], time=points[-1].entry.time,
    )  # fmt: skip


def cost_in(state: RunState, when: Period) -> Iterator[CostThen]:
    """What was trained in the period, if anything was."""
    trained = tuple(commit for commit in state.commits if commit.cost and when.holds(commit.time))
    took: Spent | None = spent(replace(state, commits=trained))
    if took:
        yield CostThen(
            track=state.label, tasks=len(trained), train_s=took.train_s, evaluate_s=took.evaluate_s,
            gpu_hours=took.gpu_hours, money=took.money,
            currency=took.currency if took.money is not None else None,
        )  # fmt: skip
