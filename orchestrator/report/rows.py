"""The data of a run, and kept answers to it."""

from collections.abc import Iterator, Sequence

from orchestrator.console.run import middle_cut
from orchestrator.console.samples import MOST, metrics, title
from orchestrator.console.scores import floors_line, percent
from orchestrator.registry.samples import Sample
from orchestrator.report.blocks import Block, Grid, Section, Words
from orchestrator.report.source import Source
from orchestrator.track.events import TaskDescription
from orchestrator.track.state import RunState

MOST_ROWS = 4  # answered rows of a task: those whose metric changed most, then the first ones
MOST_LABELS = 12


def row_sections(source: Source) -> Iterator[Section]:
    """Data, and answers."""
    yield Section("data", "Data", [*data(source.state)], "The log describes no task.")
    yield Section(
        "answers", "Answers before and after", [*answers(source)],
        "The run has no generative task whose answers are kept (evaluate.keep_answers).",
    )  # fmt: skip


def data(state: RunState) -> Iterator[Block]:
    """Rows, labels, fingerprints and floors of each task, and what was left out of its data."""
    if not state.tasks:
        return
    rows = [
        [
            task.name, f"{task.rows.train:,}", f"{task.rows.validation:,}", f"{task.rows.test:,}",
            labels_of(task.labels), percent(task.floors.best if task.floors else None), task.fingerprint or "·",
        ]
        for task in state.tasks
    ]  # fmt: skip
    heads = ["task", "train", "validation", "test", "labels", "floor, points", "sha256 of its rows"]
    yield Grid("Tasks", heads, rows, frozenset({1, 2, 3, 5}))
    yield from [*dropped_from(state.tasks)] or [Words(["No row was dropped, and nothing about the data was doubtful."])]
    floors = [
        [task.name, floors_line(task.floors, task.rows.test)] for task in state.tasks if task.floors is not None
    ]  # fmt: skip
    if floors:
        yield Grid("What needs no model", ["task", "points on its test rows"], floors, folded=True)


def dropped_from(tasks: Sequence[TaskDescription]) -> Iterator[Block]:
    """What was left out of the data of tasks; nothing if nothing was."""
    if rows := [[task.name, warning] for task in tasks for warning in task.warnings]:
        yield Grid("What was dropped, cut or doubtful", ["task", "what"], rows)


def labels_of(labels: Sequence[str]) -> str:
    """The first labels of a task, and how many more there are; a dot if its answers are free."""
    more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    return f"{', '.join(labels[:MOST_LABELS])}{more}" or "·"


def answers(source: Source) -> Iterator[Block]:
    """Of each generative task the rows whose metric changed most: prompt, references, and each answer."""
    for task, found in source.answers.items():
        chosen = sorted(found, key=lambda each: -abs(each.change(0)))[:MOST_ROWS]
        rows = [line for sample in chosen for line in lines_of(sample)]
        yield Grid(
            f"{task}: {len(chosen)} of {len(found)} test rows whose answers are kept, those that changed most first",
            ["row", "what", "text", "metrics of this row, points"], rows,
        )  # fmt: skip


def lines_of(sample: Sample) -> Iterator[list[str]]:
    """A row of the data as rows of a table."""
    head = f"{sample.row + 1}"
    yield [head, "prompt", short(sample.prompt), ""]
    for reference in sample.references:
        yield [head, "reference", short(reference), ""]
    for given in sample.answers:
        cut = f" (cut at {given.cut} tokens)" if given.cut else ""
        yield [head, title(given), f"{short(given.answer) or '(nothing)'}{cut}", metrics(given).strip("[]")]


def short(text: str) -> str:
    """A text, without its middle if it is long."""
    return middle_cut(text.strip(), MOST * 2 // 3, MOST // 3)
