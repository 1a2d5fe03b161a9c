"""Learning curves of a run: in the terminal as bars of characters, and as a picture."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import TYPE_CHECKING

from orchestrator.console.budgets import Logged, numbers
from orchestrator.console.scores import number, task_title
from orchestrator.console.screen import out
from orchestrator.log.entry import JsonLike
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState
from trainers.config import TrainConfig, learning_rate_factor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 48  # characters of a curve
RATE = "learning_rate"
TITLES = {
    "loss": "loss", "orthogonality": "orthogonality penalty", "functional": "functional penalty",
    "budget": "budget penalty", "overlap": "overlap", "mean_rank": "mean r_eff", RATE: "learning rate",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Curves:
    """How the training of one task went: the steps that were logged, and each figure at these; None if it was not
    measured. Penalties are without their weights."""

    task: str
    ref: str
    steps: Sequence[int]
    figures: Mapping[str, Sequence[float | None]]

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return {"task": self.task, "ref": self.ref, "steps": self.steps, "figures": self.figures}


def curves_of(state: RunState, commit: Committed, log: Logged) -> Curves | None:
    """The curves of a committed task, by the columns of its training.parquet; None if it has no such file.

    The figures of single modules are left out: `explain` has these. The learning rate is that of the matrices, computed
    as training does, from the run's configuration.
    """
    if not log:
        return None
    steps = [int(step) for step in numbers(log["step"]) if step is not None]
    figures = {key: numbers(column) for key, column in log.items() if key != "step" and "/" not in key}
    train = state.completed().training_of(commit.version - 1)
    ordered = {key: figures[key] for key in [*TITLES, *figures] if key in figures}
    return Curves(
        task=task_title(state, commit), ref=state.reference(commit), steps=steps,
        figures={**ordered, RATE: rates(train, steps)},
    )  # fmt: skip


def rates(train: TrainConfig, steps: Sequence[int]) -> list[float | None]:
    """The learning rate of each of these steps, counted from 1, of a task whose last step is the last of these."""
    return [train.learning_rate * learning_rate_factor(step - 1, train.warmup_steps, steps[-1]) for step in steps]


def print_curves(curves: Sequence[Curves]) -> None:
    """The curves in the terminal, a line per figure that is not 0 throughout."""
    for each in curves:
        out.print(f"{each.task} ({each.ref}), logged from step {each.steps[0]} to {each.steps[-1]}", markup=False)
        for line in lines(each):
            out.print(f"  {line}", markup=False)


def lines(curves: Curves) -> Iterator[str]:
    """A line per figure: its name, its first and last value, and its course."""
    for name, values in curves.figures.items():
        known = [value for value in values if is_number(value)]
        if known and any(known):
            ends = f"{number(known[0], '.4g')} → {number(known[-1], '.4g')}"
            yield f"{TITLES.get(name, name):<22}{ends:<24}{bars(values)}"


def is_number(value: float | None) -> bool:
    """Whether a figure was measured and is finite."""
    return value is not None and math.isfinite(value)


def bars(values: Sequence[float | None], width: int = WIDTH) -> str:
    """The course of values between their least (▁) and greatest (█), in at most `width` characters: the mean of the
    values that share a character, and a blank for none."""
    count = min(width, len(values))
    parts = (values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count))
    means = [fmean(known) if (known := [v for v in part if v is not None and is_number(v)]) else None for part in parts]
    found = [each for each in means if each is not None]
    least, span = min(found, default=0.0), max(found, default=0.0) - min(found, default=0.0)
    top = len(LEVELS) - 1
    return "".join(" " if m is None else LEVELS[round(top * (m - least) / span) if span else 0] for m in means)


def picture(title: str, curves: Sequence[Curves]) -> bytes:
    """PNG of `drawn`, with a title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn(curves)
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def drawn(curves: Sequence[Curves]) -> "Figure":
    """A panel per figure, over the steps of all tasks one after the other."""
    from matplotlib.figure import Figure

    names = [name for name in [*TITLES, *extra(curves)] if any(any(e.figures.get(name, ())) for e in curves)]
    figure = Figure(figsize=(10, 1.6 * len(names) + 0.8), layout="constrained")
    starts = [0, *accumulate(each.steps[-1] for each in curves)]
    for axes, name in zip(figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
        for start, each in zip(starts, curves, strict=False):
            values = [
                math.nan if value is None else value for value in each.figures.get(name, [None] * len(each.steps))
            ]
            axes.plot([start + step for step in each.steps], values, linewidth=1.2, marker=".", markersize=3)
            axes.axvline(start, color="grey", linewidth=0.5)
        axes.set_ylabel(TITLES.get(name, name).replace(" ", "\n", 1), fontsize=8)
        axes.grid(alpha=0.3)
        if name == names[0]:
            for start, each in zip(starts, curves, strict=False):
                axes.annotate(each.task, (start, 1.02), xycoords=("data", "axes fraction"), fontsize=8)
        if name == names[-1]:
            axes.set_xlabel("steps of all tasks")
    return figure


def extra(curves: Sequence[Curves]) -> list[str]:
    """The figures that are not among TITLES."""
    return [name for name in dict.fromkeys(name for each in curves for name in each.figures) if name not in TITLES]
