"""Answers and scores of new rows as people read them, and how far many of them are."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from orchestrator.console.run import middle_cut
from orchestrator.console.samples import visible
from orchestrator.console.scores import number, percent
from orchestrator.console.screen import out, print_table
from orchestrator.console.story import of
from orchestrator.console.volume import volume
from trainers.data.generative.config import OF_LOSS

if TYPE_CHECKING:
    from orchestrator.delivery.evaluating import Evaluation, Share

EVERY_S = 5.0
LIKELIEST = 4  # labels beside the first that are shown of a text
WIDEST = 12  # labels of a confusion matrix that is shown
SHOWN = 160  # characters of a row that is answered badly


class Rate:
    """Says on standard error how many rows are done, every few seconds."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()
        self.done, self.said = 0, False

    def __enter__(self) -> "Rate":
        return self

    def __exit__(self, *_: object) -> None:
        if self.said and sys.stderr.isatty():
            print(file=sys.stderr)

    def more(self, before: int, rows: int) -> None:
        """So many more rows are done."""
        self.told(self.done + rows, before)

    def told(self, now: int, before: int) -> None:
        """`now` rows are done in this run, `before` were before it. Time counts from when the first is asked."""
        self.done, moment = now, time.monotonic()
        if not now:
            self.started = self.last = moment
        if volume.quiet or moment - self.last < EVERY_S:
            return
        self.last, self.said = moment, True
        rate = now / (moment - self.started)
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"{now + before:,} rows, {rate:,.1f} a second  ", end=end, file=sys.stderr, flush=True)


def print_answer(answer: Mapping[str, Any], generated: bool) -> None:
    """One answer: a text, or a label before the next likeliest ones."""
    first, second, third = answer.values()
    if generated:
        cut = "" if third == "stop" else "   (cut: no more tokens were allowed)"
        out.print(f"{visible(first)}{cut}", markup=False)
        return
    if third is None:
        out.print("(no text)")
        return
    others = sorted((each for each in third.items() if each[0] != first), key=lambda each: -each[1])[:LIKELIEST]
    shown = ", ".join(f"{label} {share:.1%}" for label, share in others)
    likely = "(none of the labels)" if first is None else f"{first} {second:.1%}"
    out.print(f"{visible(likely)}   {visible(shown)}", markup=False)


# ---------------------------------------------------------------- eval


def print_evaluation(made: "Evaluation") -> None:
    """All of an evaluation."""
    out.print(f"{made.reference}: {made.task}, {made.rows:,} rows", markup=False)
    for line in score_lines(made):
        out.print(f"  {line}", markup=False)
    for note in made.notes:
        out.print(f"  note: {note}", markup=False)
    if made.classes:
        print_classes(made)
    for each in worst_lines(made):
        out.print(each, markup=False)


def print_classes(made: "Evaluation") -> None:
    """A table per label, and which answers which got; without labels that no row has and no answer is."""
    rows = made.confusion
    met = [place for place in range(len(rows)) if sum(rows[place]) or any(row[place] for row in rows)]
    if absent := len(rows) - len(met):
        out.print(f"  {of(absent, 'label')} that no row has and no answer is: left out below", markup=False)
    labels = [made.labels[place] for place in met]
    print_table(class_table({label: made.classes[label] for label in labels}))
    if len(labels) <= WIDEST:
        kept = [*met, len(rows)]  # the last column is no label
        print_table(confusion_table(labels, [[rows[place][each] for each in kept] for place in met]))


def score_lines(made: "Evaluation") -> Iterator[str]:
    """Each metric, the first with its interval; the macro F1, and the floor."""
    for place, (name, value) in enumerate(made.metrics.items()):
        form = (lambda each: number(each, ".3f")) if name in OF_LOSS else percent
        unit = "" if name in OF_LOSS else " points"
        spread = f" (95%: {form(made.interval[0])} to {form(made.interval[1])})" if made.interval and not place else ""
        yield f"{name:<20}{form(value):>8}{unit}{spread}"
    if made.macro_f1 is not None:
        yield f"{'macro F1':<20}{percent(made.macro_f1):>8} points"
    for name, value in made.floor.items():
        yield f"{f'floor ({name})':<20}{percent(value):>8} points"


def class_table(classes: "Mapping[str, Share]") -> Table:
    """Precision, recall and F1 per label."""
    table = Table(title="Per label, points", title_justify="left")
    for column in ("label", "precision", "recall", "F1", "rows"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, share in classes.items():
        shares = (share.precision, share.recall, share.f1)
        table.add_row(escape(visible(label)), *map(percent, shares), f"{share.rows:,}")
    return table


def confusion_table(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> Table:
    """Right labels downwards, answers to the right; a column for no label if there are such answers."""
    table = Table(title="Rows by right label (down) and answer (across)", title_justify="left")
    table.add_column("")
    none = any(row[-1] for row in confusion)
    for label in [*labels, *["(none)"] * none]:
        table.add_column(escape(visible(label)), justify="right")
    for label, row in zip(labels, confusion, strict=True):
        table.add_row(escape(visible(label)), *(f"{n:,}" for n in row[: len(labels) + none]))
    return table


def worst_lines(made: "Evaluation") -> Iterator[str]:
    """The rows that are answered worst."""
    if made.worst:
        what = "probability of the right label" if made.classes else f"{next(iter(made.metrics))} of the row"
        yield f"Worst rows ({what}):"
    for each in made.worst:
        yield f"  {each.value:.3f}  {each.where} row {each.row}: {shown(each.asked)}"
        yield f"         right: {shown(each.right)}   answered: {shown(each.answer)}"


def shown(text: str | None) -> str:
    """A text in one line; the middle of a long one is left out."""
    if text is None:
        return "(nothing)"
    flat = " ".join(visible(text).split())
    return middle_cut(flat, SHOWN * 2 // 3, SHOWN // 3)
