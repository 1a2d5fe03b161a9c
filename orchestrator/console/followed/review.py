"""A period's page: on a terminal, as Markdown, as one HTML file without anything from elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

from rich.markup import escape as plain
from rich.table import Table

from orchestrator.console.samples import visible
from orchestrator.console.scores import nats, percent
from orchestrator.console.screen import fits, out, print_table
from orchestrator.console.story import minute, of
from orchestrator.followed.changed import figure_shown, value_shown
from orchestrator.followed.review import MovedThen, Review
from trainers.data.generative.config import OF_LOSS

RIGHT = frozenset(
    {
        "AA",
        "parameters",
        "bytes",
        "judged",
        "broken",
        "scores",
        "last",
        "tasks",
        "s of training",
        "s of evaluation",
        "GPU-hours",
    }
)
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 0 0 1rem; display: block; overflow-x: auto }
th, td { border: 1px solid #767676; padding: .25rem .5rem; text-align: left; vertical-align: top }
td.right, th.right { text-align: right; font-variant-numeric: tabular-nums }
@media print { body { margin: 0; max-width: none } table { display: table } }
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: rows of cells under columns, or, without rows, a sentence."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    nothing: str


def sections(made: Review) -> list[Section]:
    """All parts of a page, as strings."""
    return [*what_was_done(made), *how_it_went(made)]


def what_was_done(made: Review) -> Iterator[Section]:
    """Tasks, aliases, rules and settings."""
    yield Section(
        title="Learned", nothing="No task was committed.",
        columns=("version", "task", "when (UTC)", "who", "AA", "parameters", "bytes"),
        rows=[
            (each.ref, each.task, minute(each.time), each.actor, percent(each.average_accuracy),
             count(each.active_parameters), count(each.bytes))
            for each in made.learned
        ],
    )  # fmt: skip
    yield Section(
        title="Promoted and rolled back", nothing="No alias was moved.",
        columns=("alias", "from", "to", "when (UTC)", "who", "why", "bounds that it met"),
        rows=[
            (f"{each.track}@{each.alias}", f"v{each.before}" if each.before else "·",
             f"v{each.version}" + (" (rollback)" if each.kind == "rollback" else ""), minute(each.time), each.actor,
             each.why or "(no reason given)", bounds_of(each))
            for each in made.moved
        ],
    )  # fmt: skip
    yield Section(
        title="Approved, rejected, quarantined", nothing="Nothing was.",
        columns=("version", "what", "when (UTC)", "who", "why"),
        rows=[(each.ref, each.said, minute(each.time), each.actor, each.why or "·") for each in made.said],
    )  # fmt: skip
    yield Section(
        title="Rules and settings that were changed", nothing="None was changed.",
        columns=("where", "key", "from", "to", "when (UTC)", "who", "why"),
        rows=[
            (each.where, each.key, value_shown(each.before), value_shown(each.after), minute(each.time), each.actor,
             each.why or "·")
            for each in made.changed
        ],
    )  # fmt: skip


def how_it_went(made: Review) -> Iterator[Section]:
    """Thresholds, scores, runs that ended early, cost."""
    yield Section(
        title="Thresholds", nothing="None was judged.",
        columns=("run", "rule", "judged", "broken", "newest", "bound", "in words"),
        rows=[
            (each.track, each.rule, str(each.judged), str(each.broken), figure_shown(each.measured),
             figure_shown(each.bound), each.reason)
            for each in made.thresholds
        ],
    )  # fmt: skip
    yield Section(
        title="Recorded scores", nothing="None was recorded.",
        columns=("run", "task", "metric", "scores", "worse", "better", "last", "version", "that one is"),
        rows=[
            (each.track, each.task, each.metric, str(each.records), str(each.worse), str(each.better),
             nats(each.score) if each.metric in OF_LOSS else percent(each.score), f"v{each.version}", each.verdict)
            for each in made.scored
        ],
    )  # fmt: skip
    yield Section(
        title="Runs that ended early", nothing="None did.", columns=("run", "how", "when (UTC)", "reason"),
        rows=[(each.track, each.status, minute(each.time), each.reason or "·") for each in made.ended],
    )  # fmt: skip
    yield Section(
        title="Cost", nothing="Nothing was trained.",
        columns=("run", "tasks", "s of training", "s of evaluation", "GPU-hours", "money"),
        rows=[*cost_rows(made)],
    )  # fmt: skip


def cost_rows(made: Review) -> Iterator[Sequence[str]]:
    """What each run took, and all of them; money by currency."""
    for each in made.cost:
        money = "·" if each.money is None else f"{each.money:,.2f} {each.currency}"
        took = f"{each.train_s:,.0f}", f"{each.evaluate_s:,.0f}"
        yield each.track, str(each.tasks), *took, f"{each.gpu_hours:,.2f}", money
    if len(made.cost) > 1:
        sums: dict[str, float] = {}
        for each in made.cost:
            if each.money is not None:
                sums[each.currency or ""] = sums.get(each.currency or "", 0.0) + each.money
        seconds = tuple(f"{sum(getattr(each, key) for each in made.cost):,.0f}" for key in ("train_s", "evaluate_s"))
        hours, tasks = sum(each.gpu_hours for each in made.cost), sum(each.tasks for each in made.cost)
        money = ", ".join(f"{value:,.2f} {name}" for name, value in sums.items()) or "·"
        yield "all", str(tasks), *seconds, f"{hours:,.2f}", money


def summary(made: Review) -> str:
    """The page in one sentence."""
    broken, worse = sum(each.broken for each in made.thresholds), sum(each.verdict == "worse" for each in made.scored)
    judged = sum(each.judged for each in made.thresholds)
    judged_told = f"{broken} of {of(judged, 'judged threshold')} broken"
    return (
        f"{of(len(made.learned), 'task')} learned, {of(len(made.moved), 'move')} of aliases, "
        f"{of(len(made.changed), 'change')} of rules and settings, {judged_told}, {worse} of {len(made.scored)} "
        "recorded series worse than noise explains"
    )


def heading(made: Review) -> str:
    """What the page is about."""
    return f"{made.scope}, {minute(made.since)} to {minute(made.until)} UTC, {of(made.tracks, 'run')}"


def print_review(made: Review) -> None:
    """The page on a terminal."""
    out.print(heading(made), markup=False)
    out.print(f"{summary(made)}\n", markup=False)
    for part in sections(made):
        if not part.rows:
            out.print(f"{part.title}: {part.nothing}", markup=False)
            continue
        table = Table(title=part.title, title_justify="left")
        for column in part.columns:
            table.add_column(column, justify="right" if column in RIGHT else "left")
        for row in part.rows:
            table.add_row(*(plain(visible(cell)) for cell in row))
        if fits(table):
            print_table(table)
        else:
            print_list(part)


def print_list(part: Section) -> None:
    """A part whose table is wider than the terminal: each row as its first cell, and the others by name below."""
    out.print(part.title, markup=False)
    for row in part.rows:
        out.print(f"  {visible(row[0])}", markup=False)
        told = [f"{column} {visible(cell)}" for column, cell in zip(part.columns[1:], row[1:], strict=True)]
        for line in wrap("; ".join(told), max(out.width - 4, 20)):
            out.print(f"    {line}", markup=False)


def markdown(made: Review) -> str:
    """The page as Markdown."""
    lines = [f"# {marked(heading(made))}", "", f"{summary(made)}.", ""]
    for part in sections(made):
        lines += [f"## {part.title}", ""]
        if not part.rows:
            lines += [part.nothing, ""]
            continue
        sides = ["--:" if column in RIGHT else "---" for column in part.columns]
        lines += [pipes(part.columns), pipes(sides), *(pipes(map(marked, row)) for row in part.rows), ""]
    return "\n".join(lines)


def pipes(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def marked(text: str) -> str:
    """A text that means nothing to Markdown or HTML, in one line."""
    plain = escape(visible(text), quote=False)
    return "".join(f"\\{each}" if each in "\\`*_[]|#" else each for each in plain)


def html(made: Review) -> str:
    """The page as one file."""
    title = escape(visible(heading(made)))
    parts = [f"<h1>{title}</h1>", f"<p>{escape(summary(made))}.</p>"]
    for part in sections(made):
        parts.append(f"<h2>{part.title}</h2>")
        parts.append(html_table(part) if part.rows else f"<p>{part.nothing}</p>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n'
        + "\n".join(parts)
        + ("\n</main></body></html>\n")
    )


def html_table(part: Section) -> str:
    """A part's rows."""
    sides = [' class="right"' if column in RIGHT else "" for column in part.columns]
    heads = "".join(f'<th scope="col"{side}>{column}</th>' for column, side in zip(part.columns, sides, strict=True))
    rows = [
        "<tr>" + "".join(f"<td{side}>{escape(visible(cell))}</td>" for cell, side in zip(row, sides, strict=True))
        for row in part.rows
    ]
    body = "</tr>\n".join(rows)
    name = f'<table tabindex="0" aria-label="{part.title}">'
    return f"{name}<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tr></tbody></table>"


def bounds_of(move: MovedThen) -> str:
    """The bounds that a promotion met, and those that its mover set aside."""
    none = "none are set" if move.kind == "promote" else "a rollback is judged by none"
    return "; ".join([*move.held, *(f"set aside: {reason}" for reason in move.set_aside)]) or none


def count(value: int | None) -> str:
    """A count; a dot for None."""
    return "·" if value is None else f"{value:,}"
