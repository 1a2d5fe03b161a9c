"""What was recorded after training: how scores went since, and what of it is drift."""

from collections.abc import Iterator

from orchestrator.console.followed.trend import lines_of, table_of
from orchestrator.followed.trend import Series
from orchestrator.report.blocks import Block, Picture, Section, Words, grid_of, stripped
from orchestrator.report.pictures import Line, over_stream
from orchestrator.report.source import Source

MOST_PICTURES = 6


def later_sections(source: Source) -> Iterator[Section]:
    """The trend of recorded scores."""
    yield Section(
        "trend", "Followed since", [*trend(source)],
        "No score was recorded since: `orthoplex eval RUN --record` adds one, and `orthoplex trend` says if it drifts.",
    )  # fmt: skip


def trend(source: Source) -> Iterator[Block]:
    """A series per task and metric: what `orthoplex trend` prints, and a picture of those of two scores or more."""
    for number, series in enumerate(source.recorded):
        table = grid_of(table_of(series), folded=len(series.points) > 1)
        if len(series.points) > 1 and number < MOST_PICTURES:
            yield Picture(table.caption, "; ".join(lines_of(series)), drawn(f"trend-{number}", series), table)
        else:
            yield table
            yield Words(stripped(lines_of(series)))


def drawn(prefix: str, series: Series) -> str:
    """The scores of a series with their intervals, oldest first."""
    scale = 1 if series.by_loss else 100
    bounds = [point.record.interval for point in series.points]
    line = Line(
        series.metric, [scale * point.record.score for point in series.points],
        [scale * (each[1] - each[0]) / 2 if each else None for each in bounds],
    )  # fmt: skip
    names = [f"v{point.record.version}, {point.entry.time[:10]}" for point in series.points]
    unit = "nats per token" if series.by_loss else "points"
    return over_stream(prefix, [[line]], names, unit, across="recorded")
