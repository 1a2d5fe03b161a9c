"""The state of a sweep: a pure function of its log, `t/<team>/.sweeps/<name>/log/`. See `events` for its entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.errors import IntegrityError
from cluster.schema import Frozen
from cluster.storage import Store
from orchestrator.log.chain import Log
from orchestrator.log.entry import Entry
from orchestrator.log.event import Decided, Json, decided, parse
from orchestrator.run.changes import Difference, comparable, differences, told, within
from orchestrator.sweeps.events import KINDS, KNOWN, Chosen, Outcome, Point, Row, Scalar, TrialStatus
from orchestrator.track.driving import Driving, counted, driving
from orchestrator.track.driving import Status as SweepStatus
from orchestrator.track.events import Open, TaskDescription, unknown
from orchestrator.track.layout import sweep_root

HARMLESS = (  # what may change between two starts of a sweep; trials are compared by `run.evaluate.rows`
    "budget", "choice", "concurrent", "trials_per_gpu", "tracking", "run.cluster", "run.cost", "run.data_dir",
    "run.store", "run.tracking", "run.train.eval_batch_size", "run.train.checkpoint_steps", "run.train.logging_steps",
    "run.evaluate.tasks", "run.evaluate.every", "run.evaluate.keep_answers", "run.evaluate.keep_rows",
    "run.evaluate.labels", "run.evaluate.macro_f1",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """Trial `number`: its point, its run, how it ended and why, and its rows by tasks done, in order."""

    number: int
    values: Mapping[str, Scalar]
    run: str
    status: TrialStatus = "running"
    reason: str | None = None
    rows: tuple[Row, ...] = ()

    @property
    def last(self) -> Row | None:
        """What it measured last."""
        return self.rows[-1] if self.rows else None

    def at(self, tasks: int) -> Row | None:
        """What it measured after so many tasks."""
        return next((row for row in self.rows if row.tasks == tasks), None)


@dataclass(frozen=True, kw_only=True)
class SweepState:
    """The replayed log. `choice` is the newest one; `skipped` are entries of operations that this version does not
    know, which count for nothing here."""

    driving: Driving = field(default_factory=Driving)
    config: Json = field(default_factory=dict)
    tasks: tuple[TaskDescription, ...] = ()
    trials: tuple[SweepTrial, ...] = ()
    choice: Chosen | None = None
    head: Entry | None = None
    skipped: tuple[Entry, ...] = ()
    decisions: tuple[Decided, ...] = ()

    @property
    def status(self) -> SweepStatus:
        """What the sweep is now."""
        return self.driving.status

    @property
    def reason(self) -> str | None:
        """Why its last driver left it."""
        return self.driving.reason

    def ended(self, status: TrialStatus) -> list[SweepTrial]:
        """The trials with this status."""
        return [trial for trial in self.trials if trial.status == status]


class SweepLog(Log):
    """The log of a sweep."""

    kinds = KINDS


def sweep_log(store: Store, team: str, name: str) -> SweepLog:
    """The log of a sweep. It stands beside the team's tracks, under a name that no track has."""
    return SweepLog(store, sweep_root(team, name), f"{team}/{name}")


def replay_sweep(entries: Sequence[Entry]) -> SweepState:
    """Reads a sweep's entries, oldest first, into its state. Raises IntegrityError if a body is malformed, or the
    outcome of no trial."""
    held = list(counted(entries))
    opened, choice = Open(config={}, tasks=()), None
    trials: dict[int, SweepTrial] = {}
    for entry in held:
        match entry.op:
            case Open.op:
                opened = parse(entry, Open)
            case Point.op:
                point = parse(entry, Point)
                trials[point.number] = SweepTrial(number=point.number, values=point.values, run=point.run)
            case Outcome.op:
                end = parse(entry, Outcome)
                if end.number not in trials:
                    raise IntegrityError(
                        f"entry {entry.seq} (outcome): number: {end.number} is no trial; do not use this log, or "
                        "restore a backup of it"
                    )
                trials[end.number] = replace(trials[end.number], status=end.status, reason=end.reason, rows=end.rows)
            case Chosen.op:
                choice = parse(entry, Chosen)
    return SweepState(
        driving=driving(held), config=opened.config, tasks=opened.tasks, trials=tuple(trials.values()), choice=choice,
        head=entries[-1] if entries else None, skipped=tuple(unknown(entries, KNOWN)),
        decisions=decided(held),
    )  # fmt: skip


def with_evaluate(config: Json) -> Json:
    """A sweep's configuration with the section `evaluate` of its run, which is not stored if it has no say."""
    run = config.get("run")
    return {**config, "run": {"evaluate": {}, **run}} if isinstance(run, dict) else config


def sweep_changes(state: SweepState, config: Json, now: Frozen | None = None) -> list[Difference]:
    """What is not as the sweep was begun, of what must be; nothing before its first trial. `now` is the configuration
    as it is read."""
    if not state.trials:
        return []
    stored, given = comparable(state.config, config, type(now)) if now else (state.config, config)
    found = differences(with_evaluate(stored), with_evaluate(given), section=now)
    return [change for change in found if not within(change[0], HARMLESS)]


def sweep_objections(
    state: SweepState, config: Json, tasks: Sequence[TaskDescription], now: Frozen | None = None
) -> list[str]:
    """The reasons why the sweep cannot go on with this configuration and data; none before its first trial. `now` is
    the configuration as it is read."""
    if not state.trials:
        return []
    changed = [told(change, now) for change in sweep_changes(state, config, now)]
    pairs = zip(state.tasks, tasks, strict=False)
    data = [old.name for old, new in pairs if old.fingerprint != new.fingerprint]
    return changed + [f"task {name!r}: its rows differ from those the sweep was begun with" for name in data]
