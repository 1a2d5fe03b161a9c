"""Where a sweep stands: a pure function of its log, `t/<team>/.sweeps/<name>/log/`.

Entries of a sweep, beside those of a driver that any log has (`start`, `renew`, `finish`, `interrupt`, `fail`): `open`
(configuration and data), `pool` (how many trials run at once, and on what), `trial` (a point, before it is begun),
`outcome` (how a trial ended, and what it measured after each task) and `choice` (the front and the recommended point,
and where their files are).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.storage import Store
from orchestrator.log.chain import Log
from orchestrator.log.entry import Entry
from orchestrator.log.event import events
from orchestrator.sweeps.events import Choice, Outcome, Trial
from orchestrator.sweeps.space import Scalar
from orchestrator.track.driving import Driving, counted, driving
from orchestrator.track.events import Open, TaskDescription
from orchestrator.track.layout import sweep_root
from orchestrator.track.state import differences, within

Status = Literal["running", "finished", "stopped", "failed"]
HARMLESS = (  # what may change between two starts of a sweep
    "budget", "choice", "concurrent", "trials_per_gpu", "tracking", "run.cluster", "run.data_dir", "run.store",
    "run.train.eval_batch_size", "run.train.checkpoint_steps", "run.train.logging_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What a trial measured after `tasks` tasks, on the validation splits: AA, BWT and forgetting as fractions (None
    before the second task), the active parameters of the whole stream, and the seconds it trained and evaluated so
    far on `gpus` GPUs, a part of one where it was shared; tasks taken over from elsewhere cost it nothing."""

    tasks: int
    aa: float
    parameters: int
    bwt: float | None
    forgetting: float | None
    train_s: float
    evaluate_s: float
    gpus: float


@dataclass(frozen=True)
class TrialState:
    """Trial `number`: its point, its run, how it ended and why, and its rows by tasks done, in order."""

    number: int
    values: Mapping[str, Scalar]
    run: str
    status: Status = "running"
    reason: str | None = None
    rows: tuple[Row, ...] = ()

    @property
    def last(self) -> Row | None:
        """What it measured last."""
        return self.rows[-1] if self.rows else None

    def at(self, tasks: int) -> Row | None:
        """What it measured after so many tasks."""
        return next((row for row in self.rows if row.tasks == tasks), None)


@dataclass(frozen=True)
class SweepState:
    """The replayed log; `driving` and `head` as in RunState. `choice` is the body of the newest such entry."""

    driving: Driving = field(default_factory=Driving)
    config: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[TaskDescription, ...] = ()
    trials: tuple[TrialState, ...] = ()
    choice: Mapping[str, Any] | None = None
    head: Entry | None = None

    @property
    def state(self) -> str:
        """How the sweep stands."""
        return self.driving.status

    @property
    def reason(self) -> str | None:
        """Why its last driver left."""
        return self.driving.reason

    def ended(self, status: Status) -> list[TrialState]:
        """The trials with this status."""
        return [trial for trial in self.trials if trial.status == status]


def sweep_log(store: Store, team: str, name: str) -> Log:
    """The log of a sweep. It stands beside the team's tracks, under a name that no track has."""
    return Log(store, sweep_root(team, name), f"{team}/{name}")


def replay_sweep(entries: Sequence[Entry]) -> SweepState:
    """Reads a sweep's entries, oldest first, into its state."""
    config: Mapping[str, Any] = {}
    tasks: tuple[TaskDescription, ...] = ()
    trials: dict[int, TrialState] = {}
    choice: Mapping[str, Any] | None = None
    standing = [*counted(entries)]
    for _, event in events(standing, Open, Trial, Outcome, Choice):
        match event:
            case Open():
                config, tasks = event.config, event.tasks
            case Trial():
                trials[event.number] = TrialState(event.number, event.values, event.run)
            case Outcome():
                begun, rows = trials[event.number], tuple(Row(**row) for row in event.rows)
                trials[begun.number] = TrialState(
                    begun.number, begun.values, begun.run, event.status, event.reason, rows
                )
            case Choice():
                choice = event.body()
    head = entries[-1] if entries else None
    return SweepState(driving(standing), config, tasks, tuple(trials.values()), choice, head)


def sweep_objections(state: SweepState, config: Mapping[str, Any], tasks: Sequence[TaskDescription]) -> list[str]:
    """Why the sweep cannot go on with this configuration and these data, a line each; none before its first trial."""
    if not state.trials:
        return []
    changed = [
        f"{path}: was {before!r}, is now {after!r}"
        for path, before, after in differences(state.config, config)
        if not within(path, HARMLESS)
    ]
    pairs = zip(state.tasks, tasks, strict=False)
    data = [old.name for old, new in pairs if old.fingerprint != new.fingerprint]
    return changed + [f"task {name!r}: its rows differ from those the sweep was begun with" for name in data]
