"""Sweeps made of plain values: a configuration of four small tasks, rows, trials that ended."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.sweeps.config import SweepConfig, parse_sweep
from orchestrator.sweeps.events import Row, TrialStatus
from orchestrator.sweeps.sweep_state import SweepState, SweepTrial
from orchestrator.track.driving import Driving, Status

TASKS = ("library", "section", "kind", "area")
SPACE = {
    "adapter.threshold": {"uniform": [0.1, 0.9]},
    "adapter.max_rank": {"choice": [4, 8, 16]},
}


ADAPTER = {
    "target_modules": ["output.dense"], "max_rank": 16, "threshold": 0.5, "orthogonality": {"weight": 5.0},
}  # fmt: skip


def run_content(**sections: Any) -> dict[str, Any]:
    """A run of four tasks, as YAML has it."""
    tasks = [{"name": name, "source": "docstrings", "task": name} for name in TASKS]
    return {"name": "base", "adapter": ADAPTER, "tasks": tasks, **sections}


def content_of(space: Mapping[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A sweep as YAML has it; `search` and `run` replace keys of theirs, other sections come as they are."""
    search = {"first": [], "space": dict(space or SPACE), **sections.pop("search", {})}
    run = run_content(**sections.pop("run", {}))
    return {"name": "s", "run": run, "budget": {"trials": 8}, "search": search, **sections}


def sweep_of(space: Mapping[str, Any] | None = None, **sections: Any) -> SweepConfig:
    """The same, validated."""
    return parse_sweep(content_of(space, **sections), "s.yaml")


def in_store(store: str, **sections: Any) -> SweepConfig:
    """The same, over runs in a store."""
    return sweep_of(run={"store": store, **sections.pop("run", {})}, **sections)


def row(tasks: int, aa: float, parameters: int = 100, bwt: float | None = 0.0, **more: Any) -> Row:
    """What a trial of one worker measured, 10 seconds of training and 2 of evaluation a task."""
    lost = None if bwt is None else -bwt
    spent = {"train_s": 10.0 * tasks, "evaluate_s": 2.0 * tasks, "gpus": 1.0}
    return Row(**{"tasks": tasks, "aa": aa, "parameters": parameters, "bwt": bwt, "forgetting": lost, **spent, **more})


def trial(
    number: int, rows: Sequence[Row] = (), status: TrialStatus = "finished", values: Mapping[str, Any] | None = None
) -> SweepTrial:
    """A trial of the sweep `s`; by default with values of its own."""
    given = {"adapter.threshold": number / 100} if values is None else values
    reason = "the loss is nan" if status == "failed" else None
    return SweepTrial(
        number=number, values=given, run=f"s-{number:05d}", status=status, reason=reason, rows=tuple(rows)
    )


def state_of(*trials: SweepTrial, status: Status = "running", reason: str | None = None, **more: Any) -> SweepState:
    """A sweep with these trials."""
    return SweepState(driving=Driving(status=status, reason=reason), trials=trials, **more)


def finished(number: int, aa: float, parameters: int, bwt: float | None = 0.0, **values: Any) -> SweepTrial:
    """A trial that did its four tasks; keys are written max_rank=4."""
    point = {f"adapter.{key}": value for key, value in values.items()} or None
    return trial(number, [row(4, aa, parameters, bwt)], values=point)


def line_of(lines: Sequence[str], *parts: str) -> str:
    """The one line that has all the parts."""
    found = [line for line in lines if all(part in line for part in parts)]
    assert len(found) == 1, (parts, lines)
    return found[0]


Say = Callable[[str], None]
