"""Scores of a run as people read them: matrices of accuracies and of losses, intervals, floors."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from orchestrator.console.screen import fits
from orchestrator.console.views import ALL, View
from orchestrator.track.events import Committed, Floors
from orchestrator.track.state import Matrix, RunState, score_at
from orchestrator.track.union import union_metrics
from trainers.config import AT_ONCE

Form = Callable[[float | None], str]  # a value as people read it


def number(value: float | None, form: str) -> str:
    """A number in the given form, without −0; a dot for None."""
    return "·" if value is None or math.isnan(value) else format(value, f"z{form}")


def task_title(state: RunState, commit: Committed) -> str:
    """What a commit was trained on: its task, or all at once."""
    return AT_ONCE if state.joint else commit.task


def percent(value: float | None) -> str:
    """A fraction in points, without the word; a dot for None. See `metrics.points`."""
    return number(None if value is None else 100 * value, ".1f")


def nats(value: float | None) -> str:
    """An nll, or a difference of two; a dot for None."""
    return number(value, ".3f")


@dataclass(frozen=True)
class Kind:
    """How scores of one kind are shown: the title of their matrix, a value, their metrics by key, and the unit."""

    title: str
    form: Form
    metrics: Mapping[str, str]
    unit: str


ACCURACIES = Kind(
    "Accuracy on the test splits, points",
    percent,
    {
        "aa": "AA (average accuracy, macro)",
        "aa_micro": "AA (micro, by rows)",
        "bwt": "BWT (backward transfer)",
        "forgetting": "forgetting",
        "fwt": "FWT (forward transfer)",
        "learning_accuracy": "learning accuracy",
    },
    "points",
)
OF_UNION = {"aa": "AA among all tasks' labels", "bwt": "BWT among all tasks' labels"}
LOSSES = Kind(
    "Loss on the test splits, nll in nats per token",
    nats,
    {"nll": "average nll", "nll_increase": "nll increase of earlier tasks"},
    "nats",
)


def scores(state: RunState, view: View = ALL) -> Iterator[tuple[Table, list[str]]]:
    """The matrix of accuracies and that of losses, each if there are tasks of its kind, with lines of its metrics. A
    matrix of so many tasks that it does not fit is a row per task instead."""
    asked = view.indices(state)
    of_loss = state.of_loss
    by_loss = [task for task in asked if task in of_loss]
    others = [task for task in asked if task not in by_loss]
    if others:
        measured = state.metrics("test")
        table, notes = shown_scores(state, ACCURACIES, others, view)
        yield (
            table,
            [*notes, *metric_lines(ACCURACIES, measured, state), *union_lines(state), *floor_lines(state, others)],
        )
    if by_loss:
        measured = state.loss_metrics("test")
        table, notes = shown_scores(state, LOSSES, by_loss, view)
        yield table, [*notes, *metric_lines(LOSSES, measured, state)]


def shown_scores(state: RunState, kind: Kind, tasks: Sequence[int], view: View) -> tuple[Table, list[str]]:
    """The matrix of tasks of a kind, or, if it does not fit and no task is asked for, a row per task and a note."""
    matrix, untrained = (
        (state.matrix("test"), state.zero_shot)
        if kind is ACCURACIES
        else (state.losses("test"), state.zero_shot_losses)
    )
    table = matrix_table(state, kind, tasks, matrix, untrained)
    if view.tasks or fits(table):
        return table, []
    note = "  a row per task, since a column per task does not fit; --task NAME shows a task's column, --json all"
    return brief_scores(state, kind, tasks, matrix, untrained), [note]


def brief_scores(
    state: RunState, kind: Kind, tasks: Sequence[int], matrix: Matrix, untrained: Sequence[float | None]
) -> Table:
    """A row per task: its floor, the untrained model, the score after its own training and the newest, each with half
    its 95% interval, how much the newest differs, and its macro F1 if there is one."""
    table = Table(title=kind.title, title_justify="left")
    table.add_column("task")
    f1 = newest_f1(state)
    with_f1 = any(f1[task] is not None for task in tasks)
    titles = ["(floor)", "(untrained)", "after its training", "now", "change", *["macro F1"] * with_f1]
    for title in titles:
        table.add_column(title, justify="right")
    halves, last = state.halves("test"), state.whole("test") - 1
    for task in tasks:
        own, floors = last if state.joint else task, state.tasks[task].floors
        first, now = (matrix[row][task] if row >= 0 else None for row in (own, last))
        change = None if first is None or now is None else now - first
        table.add_row(
            escape(state.tasks[task].name),
            kind.form(floors.best if floors else None),
            kind.form(untrained[task]),
            f"{kind.form(first)}{half_shown(kind, first, halves[own][task])}",
            f"{kind.form(now)}{half_shown(kind, now, halves[last][task])}",
            kind.form(change),
            *[kind.form(f1[task])] * with_f1,
        )
    return table


def metric_lines(kind: Kind, measured: Mapping[str, float | None], state: RunState) -> Iterator[str]:
    """A line per metric, with half its 95% interval."""
    halves, whole = state.half_widths("test"), state.whole("test")
    if whole < state.learned:
        yield f"  after {whole} of them, since when not all were scored:"
    if names := state.of_other_rows("test"):
        yield f"  BWT and forgetting leave out {', '.join(names)}: evaluate.rows was changed after training"
    for key, title in kind.metrics.items():
        value = kind.form(measured[key])
        half = half_shown(kind, measured[key], halves[key])
        yield f"  {title:<32}{value:>8}{half}{f' {kind.unit}' if value != '·' else ''}"


def union_lines(state: RunState) -> Iterator[str]:
    """A line per metric among the labels of all tasks learned, if tasks were scored so."""
    if not any(commit.union for commit in state.commits):
        return
    measured = union_metrics(state.commits, [task.rows.test for task in state.tasks])
    for key, title in OF_UNION.items():
        value = percent(measured[key])
        yield f"  {title:<32}{value:>8}{' points' if value != '·' else ''}"


def floor_lines(state: RunState, tasks: Sequence[int]) -> list[str]:
    """How floors are made, and what a dot among them means."""
    known = [state.tasks[task] for task in tasks if state.tasks[task].floors is not None]
    made = ["always the commonest label of the training rows"] * any(task.labels for task in known)
    made += ["the best of a constant, a copied and a nearest training answer"] * any(not task.labels for task in known)
    lines = [f"  (floor) needs no model: {'; of texts '.join(made)}"] if made else []
    if 0 < len(known) < len(tasks):
        lines.append("  (floor) of some tasks is not in this log; `orthoplex plan` shows it")
    return lines


def half_shown(kind: Kind, value: float | None, half: float | None) -> str:
    """Half an interval, behind its value; nothing if there is none."""
    return "" if value is None or half is None else f" ±{kind.form(half)}"


def matrix_table(
    state: RunState, kind: Kind, tasks: Sequence[int], matrix: Matrix, zero_shot: Sequence[float | None]
) -> Table:
    """One row per trained task, one column per task of the kind; floors and the untrained model stand above, the newest
    macro F1 below if there is one. What a task had after its own training and what it has now are shown with half their
    95% intervals: AA and BWT are made of these."""
    table = Table(title=kind.title, title_justify="left")
    table.add_column("after training")
    halves, last, f1, columns = state.halves("test"), state.whole("test") - 1, newest_f1(state), []
    for task in tasks:
        description, shown = state.tasks[task], {task, last} - {*range(task)}
        spreads = [halves[i][task] if i in shown else None for i in range(len(matrix))]
        floor = description.floors.best if description.floors else None
        values = [floor, zero_shot[task], *(row[task] for row in matrix), f1[task]]
        name, *cells = column(kind, description.name, values, [None, None, *spreads, None])
        table.add_column(escape(name))
        columns.append(cells)
    names = [escape(task.name) for task in state.tasks]
    rows = [*[""] * (len(names) - 1), AT_ONCE] if state.joint else names
    empty = {"", *(["(floor)"] * (not any(state.tasks[task].floors for task in tasks)))}
    empty |= {"(macro F1)"} if all(f1[task] is None for task in tasks) else set()
    for label, *row in zip(["(floor)", "(untrained)", *rows, "(macro F1)"], *columns, strict=True):
        if label not in empty:
            table.add_row(label, *row)
    return table


def newest_f1(state: RunState) -> Sequence[float | None]:
    """The macro F1 per task after the last of the tasks after which all were scored; None if it was not asked for."""
    last = state.whole("test") - 1
    return state.f1("test")[last] if last >= 0 else [None] * len(state.tasks)


def column(kind: Kind, name: str, values: Sequence[float | None], halves: Sequence[float | None]) -> list[str]:
    """A name, and values with half their intervals, the numbers below each other."""
    spreads = [half_shown(kind, value, half) for value, half in zip(values, halves, strict=True)]
    behind = max(map(len, spreads))
    cells = [name, *(f"{kind.form(value)}{spread:<{behind}}" for value, spread in zip(values, spreads, strict=True))]
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def scores_so_far(state: RunState) -> str:
    """The scores on the test splits of the committed tasks: accuracies, and what tasks are judged by their loss. Of the
    newest alone if not all were scored after it."""
    done, whole = state.learned, state.whole("test") == state.learned
    first, which = (0, "tasks so far:") if whole else (done - 1, "it alone:")
    newest = state.commits[-1].test
    scored = [(state.tasks[index], score_at(newest, index)) for index in range(first, done)]
    found = [(task, score.accuracy(), score.nll()) if score else (task, None, None) for task, score in scored]
    seen = [f"{task.name} {percent(value)}" for task, value, loss in found if loss is None]
    rest = [f"{task.name} {nats(loss)}" for task, _, loss in found if loss is not None]
    labelled = all(task.labels for task, _, loss in found if loss is None)
    shown = [f"{'accuracy' if labelled else 'score'} on {which} {', '.join(seen)} points"] if seen else []
    shown += [f"nll on {which} {', '.join(rest)} nats per token"] if rest else []
    return "; ".join(shown)


def floors_line(floors: Floors, rows: int) -> str:
    """Floors, highest first; `rows` are the task's test rows, of which large splits give a sample."""
    highest = sorted(floors.scores.items(), key=lambda each: -each[1])
    of = f"{floors.rows:,} of {rows:,}" if floors.rows < rows else f"{rows:,}"
    return f"{', '.join(f'{how} {percent(score)}' for how, score in highest)} points on {of} test rows"
