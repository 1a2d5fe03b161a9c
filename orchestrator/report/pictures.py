"""The kinds of pictures of a report: heat maps, lines over a stream, one small panel per task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.report.svg import COLOURS, INK, label, new_figure, svg_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

Values = Sequence[float | None]
MARKS = ("o", "s", "^", "D", "v", "P")
WIDE = 9.6  # inches
MOST_ACROSS = 120  # characters below a picture
MOST_TEXTS = 400  # cells of a heat map that are written into


@dataclass(frozen=True)
class Line:
    """A figure over the tasks of a stream, None if it was not measured. `halves` are half its intervals. It may go on
    `dashed`, from its last place on, as (place, value)."""

    name: str
    values: Values
    halves: Values = ()
    dashed: Sequence[tuple[float, float]] = ()


def luminance(red: float, green: float, blue: float) -> float:
    """The relative luminance of a colour in sRGB, each part from 0 to 1 (WCAG 2.2)."""
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue))
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def text_on(rgb: Sequence[float]) -> str:
    """Black or white, whichever has more contrast on a colour."""
    light = luminance(*rgb[:3])
    return "black" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "white"


def heat_map(
    prefix: str,
    values: Sequence[Values],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    texts: Sequence[Sequence[str]] = (),
    outlined: Sequence[tuple[int, int]] = (),
    bounds: tuple[float, float] | None = None,
    colours: str = "viridis",
    scale: str = "",
    across: str = "",
    down: str = "",
) -> str:
    """A cell per value; one that was not measured is empty. `texts` stand in the cells, if they are not too many.
    Cells that are `outlined` (row, column) get a frame. `bounds` are the values of the least and the greatest colour.
    """
    import numpy as np
    from matplotlib.patches import Rectangle

    found = [value for row in values for value in row if value is not None]
    low, high = bounds or (min(found, default=0.0), max(found, default=1.0))
    roomy = len(rows) * len(columns) <= MOST_TEXTS and bool(texts)
    height = min(40.0, 1.5 + len(rows) * (0.42 if roomy else max(0.16, min(0.42, 12 / len(rows)))))
    figure = new_figure(WIDE, height)
    axes = figure.subplots()
    grid = [[math.nan if value is None else value for value in row] for row in values]
    mesh = axes.pcolormesh(grid, cmap=colours, vmin=low, vmax=high if high > low else low + 1, linewidth=0)
    mesh.set_rasterized(len(rows) * len(columns) > 2_000)
    named_cells(axes, rows, columns)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    for down_at, across_at in outlined:
        axes.add_patch(Rectangle((across_at, down_at), 1, 1, fill=False, edgecolor=INK, linewidth=1.6, clip_on=False))
    if roomy:
        write_into(axes, mesh.to_rgba(np.asarray(grid)), texts)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.025, pad=0.015, label=scale)
    bar.outline.set_visible(False)
    return svg_of(figure, prefix)


def named_cells(axes: "Axes", rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names of rows, the first on top, and of columns, slanted if they are many."""
    axes.invert_yaxis()
    name_across(axes, [place + 0.5 for place in range(len(columns))], columns)
    axes.set_yticks([place + 0.5 for place in range(len(rows))], [label(each) for each in rows])
    axes.tick_params(length=0, labelsize=8 if len(rows) <= 40 else 6)
    for spine in axes.spines.values():
        spine.set_visible(False)


def name_across(axes: "Axes", places: Sequence[float], names: Sequence[str]) -> None:
    """Names below these places, slanted if they would touch."""
    shown = [label(each) for each in names]
    axes.set_xticks(list(places), shown)
    if len(shown) * max(map(len, shown), default=0) > MOST_ACROSS:
        for tick in axes.get_xticklabels():
            tick.set(rotation=40, ha="right", rotation_mode="anchor")


def write_into(axes: "Axes", cells: "np.ndarray", texts: Sequence[Sequence[str]]) -> None:
    """Texts in the cells of a heat map, black or white; `cells` (rows, columns, 4) are their colours."""
    columns = cells.shape[1]
    size = 8.5 if columns <= 8 else max(5.0, 92 / columns)
    for down, row in enumerate(texts):
        for across, text in enumerate(row):
            if text:
                axes.text(
                    across + 0.5, down + 0.5, text, ha="center", va="center", fontsize=size, linespacing=1.1,
                    color=text_on(cells[down][across]),
                )  # fmt: skip


def over_stream(
    prefix: str,
    parts: Sequence[Sequence[Line]],
    tasks: Sequence[str],
    unit: str,
    *,
    bound: tuple[str, float] | None = None,
    across: str = "after training",
) -> str:
    """Lines over the tasks of a stream, a panel per part, with their intervals as bars; a bound is a level line."""
    figure = new_figure(WIDE, 1.0 + 2.4 * len(parts))
    below, place = figure.subplots(len(parts), sharex=True, squeeze=False)[:, 0], 0
    for axes, lines in zip(below, parts, strict=True):
        for line in lines:
            draw_line(axes, line, place)
            place += 1
        if bound:
            axes.axhline(bound[1], color=INK, linestyle=":", linewidth=1.2, label=bound[0])
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        axes.legend(ncols=3, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    axes = below[-1]
    name_across(axes, range(1, len(tasks) + 1), tasks)
    axes.set_xlim(0.6, len(tasks) + 0.4)
    axes.set_xlabel(across)
    return svg_of(figure, prefix)


def draw_line(axes: "Axes", line: Line, place: int) -> None:
    """A line with its marks, half intervals and what is forecast."""
    colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
    values = [math.nan if value is None else value for value in line.values]
    halves = [half or 0.0 for half in line.halves] or [0.0] * len(values)
    axes.errorbar(
        range(1, len(values) + 1), values, yerr=halves, color=colour, marker=mark, markersize=4.5, linewidth=1.6,
        elinewidth=0.9, capsize=2.5 if any(halves) else 0, label=label(line.name),
    )  # fmt: skip
    if line.dashed:
        axes.plot(*zip(*line.dashed, strict=True), color=colour, linestyle="--", linewidth=1.2)


def panels(prefix: str, lines: Sequence[Line], unit: str, floors: Values = ()) -> str:
    """A small panel per task: its score since its own training, with the band of its interval, above all others in
    grey; a level line is what needs no model."""
    across = min(5, max(1, len(lines)))
    down = math.ceil(len(lines) / across)
    figure = new_figure(WIDE, 0.6 + 1.5 * down)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(lines):
            axes.set_visible(False)
            continue
        draw_panel(axes, lines, place, floors[place] if floors else None)
    figure.supylabel(unit, fontsize=9)
    figure.supxlabel("tasks learned", fontsize=9)
    return svg_of(figure, prefix)


def draw_panel(axes: "Axes", lines: Sequence[Line], place: int, floor: float | None) -> None:
    """One of `panels`."""
    for other in lines:
        axes.plot(*known(other), color=INK, alpha=0.13, linewidth=0.8)
    line = lines[place]
    x, y = known(line)
    halves = [line.halves[at - 1] or 0.0 for at in x]
    low, high = ([value + sign * half for value, half in zip(y, halves, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.22, linewidth=0)
    axes.plot(x, y, color=COLOURS[0], marker="o", markersize=3, linewidth=1.6)
    if floor is not None:
        axes.axhline(floor, color=COLOURS[1], linestyle=":", linewidth=1.1)
    axes.set_title(label(line.name), fontsize=8.5, loc="left")
    axes.tick_params(labelsize=7)
    axes.grid(axis="y")


def known(line: Line) -> tuple[list[int], list[float]]:
    """The places, from 1, and the values that were measured."""
    found = [(place, value) for place, value in enumerate(line.values, start=1) if value is not None]
    return [place for place, _ in found], [value for _, value in found]


def bars(prefix: str, parts: Mapping[str, Values], tasks: Sequence[str], unit: str) -> str:
    """A stacked bar per task."""
    figure = new_figure(WIDE, 3.0)
    axes = figure.subplots()
    below = [0.0] * len(tasks)
    for place, (name, values) in enumerate(parts.items()):
        heights = [value or 0.0 for value in values]
        axes.bar(range(1, len(tasks) + 1), heights, bottom=below, width=0.7, color=COLOURS[place], label=label(name))
        below = [low + height for low, height in zip(below, heights, strict=True)]
    name_across(axes, range(1, len(tasks) + 1), tasks)
    axes.set_ylabel(unit)
    axes.grid(axis="y")
    axes.legend(ncols=len(parts), fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return svg_of(figure, prefix)
