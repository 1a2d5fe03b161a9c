"""Kept answers on a screen: a row, and what was answered to it before and after each later task."""

from collections.abc import Sequence

from rich.markup import escape

from cluster.words import printable
from orchestrator.console.run import middle_cut
from orchestrator.console.scores import number, percent
from orchestrator.console.screen import out
from orchestrator.registry.samples import Given, Sample
from trainers.data.generative.config import OF_LOSS

MOST, LESS = 400, 120  # characters of a text that are shown of a row, and of one among the last words of a run


def print_samples(label: str, found: Sequence[Sample], rows: int) -> None:
    """The first rows of a task, each with all answers to it."""
    shown = found[:rows]
    out.print(
        f"{label}: {found[0].task}, {len(shown)} of {len(found)} test rows whose answers are kept; "
        "counted from 1; metrics of one row",
        markup=False,
    )
    for sample in shown:
        print_sample(sample, MOST)


def print_striking(found: Sequence[Sample]) -> None:
    """The first and the last answer to each row: what later tasks made of it."""
    if not found:
        return
    out.print("\nAnswers before and after, of rows whose metric changed most:")
    for each in found:
        first, last = each.answers[0], each.answers[-1]
        print_sample(
            Sample(**{**vars(each), "answers": (first, last)}),
            LESS,
            each.task,
            "" if each.change(0) else "  (no row's metric changed)",
        )


def print_sample(sample: Sample, most: int, task: str = "", note: str = "") -> None:
    """One row. Lines of a text are put below each other."""
    texts = [("prompt", sample.prompt.strip("\n")), *(("reference", text.strip()) for text in sample.references)]
    texts += [(title(each), each.answer.strip()) for each in sample.answers]
    width = max(len(name) for name, _ in texts)
    out.print(f"[bold]{escape(task)}{' ' * bool(task)}row {sample.row + 1}[/bold]{note}")
    figures = ["", *("" for _ in sample.references), *map(behind, sample.answers)]
    for (name, text), figure in zip(texts, figures, strict=True):
        lines = middle_cut(visible(text), most * 2 // 3, most // 3).splitlines() or ["(nothing)"]
        out.print(f"  {name:<{width}}  {lines[0]}{'   ' * bool(figure)}{figure}", markup=False)
        for line in lines[1:]:
            out.print(f"  {'':<{width}}  {line}", markup=False)


def visible(text: str) -> str:
    """The text with control characters, which a terminal would obey, as escapes."""
    return printable(text.expandtabs(4))


def title(given: Given) -> str:
    """When an answer was given."""
    return "(untrained)" if given.after is None else f"after {given.after}"


def behind(given: Given) -> str:
    """What stands behind an answer: whether it was cut, and its metrics."""
    cut = f"(cut at {given.cut} tokens)" if given.cut else ""
    return "  ".join(filter(None, (cut, metrics(given))))


def metrics(given: Given) -> str:
    """The metrics of an answer: points, and losses as they are."""
    shown = (
        f"{name} {number(value, '.2f') if name in OF_LOSS else percent(value)}" for name, value in given.metrics.items()
    )
    return f"[{', '.join(shown)}]" if given.metrics else ""
