"""Rows as the model sees them, for people: trained tokens in colour, or between marks without a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.console.screen import out, print_table

if TYPE_CHECKING:
    from orchestrator.run.data_view import DataView, Piece, SplitView, TaskView

COLUMNS = ("task", "split", "rows", "tokens", "p50", "p95", "longest", "cut", "trained", "dropped", "shortened")
TRAINED = "bold green"
MARKS = "⟦", "⟧"
SHOWN_CHARACTERS = 1_200  # of a row; the middle is left out


def print_data(view: "DataView") -> None:
    """Figures of all splits, what was removed, what is asked twice, and the first rows."""
    table = Table(title="Tokens per split; lengths are of rows before anything is cut", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("task", "split") else "right")
    for task in view.tasks:
        for key, split in task.splits.items():
            sizes = (split.rows, split.tokens, split.p50, split.p95, split.longest)
            shares = f"{split.share_cut:.1%}", f"{split.share_trained:.1%}"
            table.add_row(
                escape(task.name),
                key,
                *(f"{n:,}" for n in sizes),
                *shares,
                f"{split.dropped:,}",
                f"{split.shortened:,}",
            )
    print_table(table)
    for task in view.tasks:
        for key, split in task.splits.items():
            for line in losses(split, task.max_length):
                out.print(f"{task.name} {key}: {line}", markup=False)
    for task in view.tasks:
        for warning in task.warnings:
            out.print(f"warning: {warning}", markup=False)
    for each in view.overlaps:
        out.print(f"overlap: {each.rows:,} row(s) of {each.first} ask what {each.second} asks", markup=False)
    for task in view.tasks:
        print_rows(task)


def losses(split: "SplitView", max_length: int) -> Iterator[str]:
    """What `max_length` takes from the rows of a split, a line each."""
    if split.dropped:
        yield f"{split.dropped:,} rows left out, whose prompts are too long for max_length {max_length}"
    if split.shortened:
        yield f"prompts shortened, which lose their middle: {split.shortened:,} of {split.rows:,}"
    if cut := round(split.share_cut * split.rows):
        yield f"rows cut, which lose their end: {cut:,} of {split.rows:,}"


def print_rows(task: "TaskView") -> None:
    """The first rows of a task."""
    out.print(f"\n{task.name}: {task.kind}, max_length {task.max_length}", markup=False)
    for number, shown in enumerate(task.shown, start=1):
        out.print(f"row {number}:", markup=False)
        out.print(marked(shown), soft_wrap=True)


def marked(shown: "list[Piece]") -> Text:
    """A row, its trained parts in colour on a terminal, else between marks; the middle of long parts is left out."""
    text = Text()
    most = SHOWN_CHARACTERS // max(1, len(shown))
    for part, trained in shown:
        words = shortened(part, max(40, most))
        if not trained:
            text.append(words)
        elif out.is_terminal:
            text.append(words, style=TRAINED)
        else:
            text.append(f"{MARKS[0]}{words}{MARKS[1]}")
    return text


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and end with the number of characters between."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} […{len(text) - 2 * half} characters…] {text[-half:]}"
