"""Recorded scores as people read them: how they went, and what of it is drift."""

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from orchestrator.console.samples import visible
from orchestrator.console.scores import nats, percent
from orchestrator.console.screen import out, print_table
from orchestrator.console.story import minute, of
from orchestrator.followed.trend import Compared, Point, Series

COLUMNS = ("recorded (UTC)", "version", "asked as", "rows", "score", "95%", "since the first", "since before", "")


def print_trend(label: str, found: Sequence[Series]) -> None:
    """All series of a track, and what they say."""
    out.print(f"{label}: recorded scores", markup=False)
    for series in found:
        print_table(table_of(series))
        for line in lines_of(series):
            out.print(f"  {line}", markup=False)


def table_of(series: Series) -> Table:
    """A row per score, oldest first."""
    unit = "nats per token" if series.by_loss else "points"
    more = f", {visible(series.settings)}" if series.settings else ""
    table = Table(title=escape(f"{visible(series.task)}: {series.metric}, {unit}{more}"), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in COLUMNS[3:8] else "left")
    for point in series.points:
        table.add_row(*cells(series, point))
    return table


def cells(series: Series, point: Point) -> Iterator[str]:
    """A score, its interval and its changes."""
    form = nats if series.by_loss else percent
    record = point.record
    yield minute(point.entry.time)
    yield f"v{record.version}"
    yield escape(visible(record.asked or "newest"))
    yield f"{record.rows:,}"
    yield form(record.score)
    yield f"{form(record.interval[0])} to {form(record.interval[1])}" if record.interval else "·"
    yield change_shown(point.first)
    yield change_shown(point.before)
    yield {"worse": "WORSE", "better": "better"}.get(point.verdict, "")


def change_shown(compared: Compared | None) -> str:
    """The difference of the rows' scores, in points, with p; a tilde before it if the rows are others."""
    if compared is None:
        return "·"
    change = compared.change
    p = "p<0.001" if change.p < 0.001 else f"p={change.p:.3f}"
    return f"{'' if change.paired else '~'}{100 * change.difference:+.1f} {p}"


def lines_of(series: Series) -> Iterator[str]:
    """What was compared and how, and what the newest score says."""
    made = [each for point in series.points for each in (point.first, point.before) if each]
    if not made:
        yield "one score is no trend yet; record another, of the same rows if you can"
        return
    tests = ", ".join(dict.fromkeys(each.change.test for each in made))
    chance = f"{series.comparisons * series.level:.2g}"
    count = of(series.comparisons, "comparison")
    yield f"{count} tested at level {series.level:g} ({tests}); by chance {chance} would be flagged"
    if not all(each.change.paired for each in made):
        yield "~: other rows were scored then, so that a difference may be the rows' own"
    if series.drifted:
        newest = series.points[-1]
        yield f"drift: {newest.record.reference} is worse than noise explains (entry {newest.entry.seq})"
