"""Pictures per group of streams, as SVG: AA against parameters, LA against BWT, AA and room as tasks are learned, and
each task over time."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.methods.figures import Row, rows
from benchmarks.methods.plan import Line, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "tab20"


def draw(plan: Plan, group: str, lines: Mapping[str, Line], folder: Path) -> list[Path]:
    """Writes the pictures of a group; returns them. None if nothing was measured."""
    found = [row for row in rows(plan, group, lines) if row.cells]
    if not found:
        return []
    stem = "".join(letter if letter.isalnum() else "_" for letter in group.lower())
    made = [
        (f"{stem}_parameters.svg", parameters(found, plan.ours)),
        (f"{stem}_frontier.svg", frontier(found, plan.ours)),
        (f"{stem}_course.svg", course(found, plan.ours)),
        (f"{stem}_tasks.svg", over_time(found)),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in made:
        save(figure, folder / name)
    return [folder / name for name, _ in made]


def save(figure: "Figure", path: Path) -> None:
    """Writes a figure with the same bytes each time."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "orthoplex", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def empty(width: float = 8, height: float = 5, **more: int) -> tuple["Figure", "Axes | Iterable[Axes]"]:
    """A figure that needs no screen, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**more)


def parameters(found: Sequence[Row], ours: str) -> "Figure":
    """AA against the parameters that are kept."""
    figure, axes = empty()
    points = [(row, row.figures["kept"], row.figures["aa"]) for row in found]
    scatter(axes, [(row, x, 100 * y) for row, x, y in points if x and y is not None], ours)
    axes.set_xscale("log")
    axes.set_xlabel("parameters kept over the stream")
    axes.set_ylabel("AA, points")
    return figure


def frontier(found: Sequence[Row], ours: str) -> "Figure":
    """Learning accuracy against backward transfer: up and to the right is better."""
    figure, axes = empty()
    points = [(row, row.figures["bwt"], row.figures["la"]) for row in found]
    scatter(axes, [(row, 100 * x, 100 * y) for row, x, y in points if x is not None and y is not None], ours)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("BWT, points (what is forgotten)")
    axes.set_ylabel("learning accuracy, points (what is learned)")
    return figure


def scatter(axes: "Axes", points: Sequence[tuple[Row, float, float]], ours: str) -> None:
    """A dot with its label per method; ours is large."""
    import matplotlib

    colours = matplotlib.colormaps[COLOURS]
    for place, (row, x, y) in enumerate(points):
        axes.scatter(x, y, s=140 if row.method == ours else 50, color=colours(place % 20), zorder=3,
                     marker="*" if row.method == ours else "o")  # fmt: skip
        axes.annotate(row.label, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.grid(alpha=0.3)


def over_time(found: Sequence[Row]) -> "Figure":
    """Accuracy of each task after each task, the first stream, mean over seeds; a panel per method."""
    import matplotlib

    columns = min(4, len(found))
    high = -(-len(found) // columns)
    figure, grid = empty(4 * columns, 2.6 * high, nrows=high, ncols=columns, squeeze=False, sharex=True, sharey=True)
    colours = matplotlib.colormaps[COLOURS]
    panels = [axes for line in grid for axes in line]
    for axes, row in zip(panels, found, strict=False):
        for place, (task, values) in enumerate(courses(row.cells).items()):
            plot(axes, values, label=task, color=colours(place % 20), linewidth=1)
        axes.set_title(row.label, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.supxlabel("tasks learned, first order")
    figure.supylabel("accuracy, points")
    if len(courses(found[0].cells)) <= 20:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    return figure


def course(found: Sequence[Row], ours: str) -> "Figure":
    """AA over the tasks learned so far, after each of them; and how full the bases are, if a method has some. First
    stream, mean over seeds."""
    import matplotlib

    figure, (left, right) = empty(13, 4.5, ncols=2)
    colours = matplotlib.colormaps[COLOURS]
    for place, row in enumerate(found):
        cells, style = (
            first_stream(row.cells),
            {"color": colours(place % 20), "linewidth": 2 if row.method == ours else 1},
        )
        so_far = [
            average([whole(line["test"][step][: step + 1]) for line in cells]) for step in range(len(cells[0]["tasks"]))
        ]
        plot(left, so_far, label=row.label, **style)
        for side, dashes in (("read", "-"), ("written", ":")):
            filled = [
                average([task.get(side) for task in tasks])
                for tasks in zip(*(line["by_task"] for line in cells), strict=True)
            ]
            plot(right, filled, linestyle=dashes, **style)
    left.set_ylabel("AA of the tasks so far, points")
    right.set_ylabel("share of a width that bases fill, %: read –, written ⋯")
    for axes in (left, right):
        axes.set_xlabel("tasks learned")
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return figure


def plot(axes: "Axes", values: Sequence[float | None], **style: Any) -> None:
    """A line through the fractions that were measured, in points; none if none were."""
    steps = [step for step, value in enumerate(values, start=1) if value is not None]
    if steps:
        axes.plot(steps, [100 * value for value in values if value is not None], **style)


def first_stream(cells: Sequence[Line]) -> list[Line]:
    """The cells of the first of their streams."""
    return [line for line in cells if line["stream"] == cells[0]["stream"]]


def courses(cells: Sequence[Line]) -> dict[str, list[float | None]]:
    """Task → its accuracy after each task, from its own on, in the first stream of the cells; mean over seeds."""
    same = first_stream(cells)
    found = {}
    for column, task in enumerate(same[0]["tasks"]):
        found[task] = [
            average([line["test"][step][column] for line in same]) if step >= column else None
            for step in range(len(same[0]["tasks"]))
        ]
    return found


def whole(values: Sequence[float | None]) -> float | None:
    """The mean; None if one was not measured."""
    return None if None in values else average(values)


def average(values: Sequence[float | None]) -> float | None:
    """The mean of what was measured."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None
