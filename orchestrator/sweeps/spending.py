"""What a sweep has spent, and whether its budget allows more. Pure but for the clock."""

import time
from collections.abc import Mapping, Sequence

from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.sweep_state import SweepState

Running = Mapping[int, Sequence[Row]]  # rows of trials by number


def spent(config: SweepConfig, state: SweepState, running: Running, began: float | None = None) -> str | None:
    """Why the budget allows no more, None if it does. `running` has what trials measured that the log does not have
    yet, `began` is when this start began to train, by the monotonic clock."""
    budget, used = config.budget, gpu_hours(state, running)
    if budget.gpu_hours is not None and used >= budget.gpu_hours:
        return f"{used:.2f} GPU-hours are spent (budget.gpu_hours {budget.gpu_hours:g})"
    if budget.hours is not None and began is not None and time.monotonic() - began >= 3600 * budget.hours:
        return f"the time is up (budget.hours {budget.hours:g})"
    return None


def gpu_hours(state: SweepState, running: Running) -> float:
    """Σ over trials of (training + evaluation time) · GPUs, in hours."""
    rows = {trial.number: trial.rows for trial in state.trials} | dict(running)
    return sum((own[-1].train_s + own[-1].evaluate_s) * own[-1].gpus for own in rows.values() if own) / 3600
