"""Stops trials before their last task. The rules are pure functions; a scheduler of Ray Tune acts on them.

Streams are compared at the same number of tasks done, since AA falls and parameters grow along each of them.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.schedulers.async_hyperband import AsyncHyperBandScheduler

from orchestrator.log.decision import Decision
from orchestrator.sweeps.choice import dominates
from orchestrator.sweeps.config import StoppingConfig
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.reports import Report, row_of
from orchestrator.sweeps.sweep_state import SweepTrial
from orchestrator.track.metrics import points

Measured = Mapping[int, Sequence[Row]]  # by trial number, rows in order of tasks


def dominated_by(number: int, measured: Measured, rules: StoppingConfig) -> int | None:
    """The trial that dominates trial `number` at the tasks it has done, None if there is none or it is too early."""
    mine = measured[number][-1]
    if not rules.dominated or mine.tasks < rules.grace_tasks:
        return None
    for other, rows in measured.items():
        there = next((row for row in rows if row.tasks == mine.tasks), None)
        if other != number and there and dominates(there, mine, rules.margin):
            return other
    return None


def stop_dominated(number: int, measured: Measured, rules: StoppingConfig) -> Decision | None:
    """The decision to stop a dominated trial; `bound` is the AA of the one that dominates it."""
    if (other := dominated_by(number, measured, rules)) is None:
        return None
    mine = measured[number][-1]
    bound = next(row.aa for row in measured[other] if row.tasks == mine.tasks)
    return Decision(
        rule="stopping.dominated", subject=f"trial {number}", measured=mine.aa, bound=bound, verdict="stop",
        reason=f"dominated by trial {other} after {tasks(mine.tasks)}",
    )  # fmt: skip


def stop_halved(number: int, row: Row, rules: StoppingConfig) -> Decision | None:
    """The decision to stop a trial that ASHA drops; `bound` is the share of trials that go on."""
    if rules.asha is None:
        return None
    share = f"1/{rules.asha.reduction_factor:g}"
    return Decision(
        rule="stopping.asha", subject=f"trial {number}", measured=row.aa, bound=share, verdict="stop",
        reason=f"AA of {points(row.aa)} is not among the best {share} after {tasks(row.tasks)} (ASHA)",
    )  # fmt: skip


def asha(rules: StoppingConfig, length: int) -> TrialScheduler:
    """Ray Tune's ASHA over tasks done, by AA; a scheduler that stops nothing if it is switched off or has no rung
    before the last task."""
    if rules.asha is None or rules.asha.grace_tasks >= length:
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="tasks", metric="aa", mode="max", max_t=length, grace_period=rules.asha.grace_tasks,
        reduction_factor=rules.asha.reduction_factor,
    )  # fmt: skip


class StreamScheduler(FIFOScheduler):
    """Stops dominated trials, then those that ASHA drops; `stopped` says why, by trial number.

    Trials of earlier starts of the sweep count as if they had run in this one.
    """

    def __init__(self, rules: StoppingConfig, length: int, before: Sequence[SweepTrial]) -> None:
        """`length` is the number of tasks of a stream, `before` the trials that ended already."""
        super().__init__()
        self.rules, self.length, self.asha = rules, length, asha(rules, length)
        self.measured: dict[int, list[Row]] = {}
        self.stopped: dict[int, Decision] = {}
        for trial in before:
            self.measured[trial.number] = list(trial.rows)
            self._replay(trial)

    def measure(self, number: int, row: Row) -> None:
        """Takes what a trial measured; the same may be told again, as by a trial that goes on from its last commit."""
        rows = [each for each in self.measured.get(number, []) if each.tasks != row.tasks]
        self.measured[number] = sorted([*rows, row], key=lambda each: each.tasks)

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """See TrialScheduler."""
        self.asha.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: Report) -> str:
        """STOP if a rule says so. A trial that is done ends by itself."""
        row = row_of(result)
        if row is None:
            return TrialScheduler.CONTINUE
        number = trial.config["number"]
        self.measure(number, row)
        if row.tasks >= self.length:
            return TrialScheduler.CONTINUE
        halved = self.asha.on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP
        decision = stop_dominated(number, self.measured, self.rules)
        if halved and decision is None:
            decision = stop_halved(number, row, self.rules)
        if decision:
            self.stopped[number] = decision
        return TrialScheduler.STOP if number in self.stopped else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: Report) -> None:
        """See TrialScheduler. ASHA has not seen the last result of a trial that a guard of its own has ended."""
        row = row_of(result)
        if row and row.tasks < self.length:
            self.asha.on_trial_result(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """See TrialScheduler; a failed trial's rows still count."""

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """See TrialScheduler."""

    def _replay(self, trial: SweepTrial) -> None:
        """Shows ASHA a trial of an earlier start."""
        stands_for = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        self.asha.on_trial_add(None, stands_for)
        for row in trial.rows:
            if row.tasks < self.length:
                self.asha.on_trial_result(None, stands_for, {"tasks": row.tasks, "aa": row.aa})


def tasks(number: int) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} task{'s' if number > 1 else ''}"
