"""What a run took: how its training went, seconds, GPU-hours, money, parameters, bytes, operations."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from orchestrator.console.curves import Curves, drawn
from orchestrator.console.run import counted, duration
from orchestrator.console.scores import number, task_title
from orchestrator.report.blocks import Block, Grid, Picture, Section, Words, facts
from orchestrator.report.pictures import WIDE, bars
from orchestrator.report.source import Source
from orchestrator.report.svg import label, svg_of
from orchestrator.track.events import Committed
from orchestrator.track.spending import Spent, spent, spent_by_version
from orchestrator.track.state import RunState

MOST_STEPS = 150  # points of a curve


def effort_sections(source: Source) -> Iterator[Section]:
    """Learning curves, and costs."""
    yield Section(
        "curves", "Learning curves", [*learning(source.curves)], "No committed task has a training log to draw."
    )
    yield Section(
        "cost", "Cost", [*costs(source.state)], "No task is committed yet, so nothing was spent on one."
    )  # fmt: skip


def learning(curves: Sequence[Curves]) -> Iterator[Block]:
    """The picture that `orthoplex curves --png` draws, and where each figure began and ended."""
    if not curves:
        return
    figure = drawn([thinned(each) for each in curves])
    figure.set_size_inches(WIDE, figure.get_size_inches()[1])
    figures = [*dict.fromkeys(name for each in curves for name in each.figures)]
    rows = [
        [each.task, f"{each.steps[-1]:,}", *(ends(each.figures.get(name, ())) for name in figures)] for each in curves
    ]
    heads = ["task", "steps", *figures]
    table = Grid("First → last logged value", heads, rows, frozenset(range(1, len(heads))), folded=True)
    says = "A panel per figure over the steps of all tasks, one task after the other, each in its own colour."
    yield Picture("Training, task after task", says, svg_of(figure, "curves"), table)


def thinned(curves: Curves) -> Curves:
    """The same course in at most MOST_STEPS points, the last one among them."""
    every = -(-len(curves.steps) // MOST_STEPS)
    kept = [*range(len(curves.steps) - 1, -1, -every)][::-1]
    figures = {name: [values[place] for place in kept] for name, values in curves.figures.items()}
    return replace(
        curves, task=label(curves.task), steps=[curves.steps[place] for place in kept],
        figures={label(name): values for name, values in figures.items()},
    )  # fmt: skip


def ends(values: Sequence[float | None]) -> str:
    """The first and the last value of a figure."""
    known = [value for value in values if value is not None]
    return f"{number(known[0], '.4g')} → {number(known[-1], '.4g')}" if known else "·"


def costs(state: RunState) -> Iterator[Block]:
    """Totals, a bar and a row per task, and operations beside those of the base's own training."""
    total, each = spent(state), spent_by_version(state)
    if not state.commits:
        return
    yield facts("In all", totals(state, total))
    if total:
        tasks = [commit for commit in state.commits if commit.version in each]
        names = [task_title(state, commit) for commit in tasks]
        parts = {
            "training": [each[commit.version].train_s for commit in tasks],
            "evaluation": [each[commit.version].evaluate_s for commit in tasks],
        }
        svg = bars("seconds", parts, names, "seconds")
        says = f"{duration(total.train_s)} of training and {duration(total.evaluate_s)} of evaluation, by task."
        yield Picture("Seconds by task", says, svg)
    yield by_task(state)
    yield Words([*operations(total)])


def totals(state: RunState, total: Spent | None) -> Iterator[tuple[str, str]]:
    """What `status` says of a run's size and cost."""
    yield "active adapter parameters", f"{number(state.active_parameters, ',.0f')}{counted(state)}"
    yield "stored bytes", f"{state.stored_bytes:,}"
    if total:
        yield "seconds of training", f"{total.train_s:,.0f}"
        yield "seconds of evaluation", f"{total.evaluate_s:,.0f}"
        yield "GPU-hours", f"{total.gpu_hours:,.2f}" if total.gpu_hours else "0, since it trained on no GPU"
        if total.currency:
            yield "money", f"{total.money or 0:,.2f} {total.currency}"


def by_task(state: RunState) -> Grid:
    """A row per task, with operations added up from the first task on."""
    each = spent_by_version(state)
    flops = [each[commit.version].flops if commit.version in each else None for commit in state.commits]
    sums = [*accumulate(flops, lambda so_far, more: None if so_far is None or more is None else so_far + more)]
    rows = [
        row_of(state, commit, each.get(commit.version), total)
        for commit, total in zip(state.commits, sums, strict=True)
    ]
    price = next((found.currency for found in each.values() if found.currency), None)
    heads = [
        "task", "parameters", "bytes", "training, s", "evaluation, s", "GPU-hours", f"money, {price or 'no price'}",
        "tokens", "FLOPs", "FLOPs so far",
    ]  # fmt: skip
    return Grid("By task", heads, rows, frozenset(range(1, len(heads))))


def row_of(state: RunState, commit: Committed, taken: Spent | None, flops: float | None) -> list[str]:
    """What a task took; dots for a copy of a fork's source, and for what is not known."""
    times = [number(getattr(taken, key, None), ",.0f") for key in ("train_s", "evaluate_s")]
    return [
        task_title(state, commit),
        number(commit.active_parameters, ",.0f"),
        f"{commit.stored_bytes:,}",
        *times,
        number(taken.gpu_hours if taken else None, ",.2f"),
        number(taken.money if taken else None, ",.2f"),
        number(commit.cost.tokens if commit.cost else None, ",.0f"),
        number(taken.flops if taken else None, ".2e"),
        number(flops, ".2e"),
    ]


def operations(total: Spent | None) -> Iterator[str]:
    """The operations of training, and how they compare with a third of the base's."""
    if total is None:
        return
    if total.flops is None:
        yield "Floating-point operations are not known: commits of older versions do not hold what they follow from."
        return
    yield (
        f"Training took about {total.flops:.3g} floating-point operations: 4 per token and parameter of the frozen "
        "base (forwards, and back to what is trained), 6 per token and trained parameter beside it. Attention scores, "
        "padding and evaluation are not counted."
    )
    base = total.price.base_flops if total.price else None
    if base is None or total.share is None:
        yield (
            "The base's own training compute is not given (cost.base_flops), so the share of it is not known. Above a "
            "third, the guidelines of the European Commission of 18 July 2025 take whoever modified a general-purpose "
            "model for the provider of a new one."
        )
        return
    side = "above" if total.share > 1 else "below"
    yield (
        f"That is {total.share:.3g} times a third of the base's own training compute ({base:.3g}, cost.base_flops), so "
        f"{side} the mark from which the guidelines of the European Commission of 18 July 2025 take whoever modified a "
        "general-purpose model for the provider of a new one."
    )
