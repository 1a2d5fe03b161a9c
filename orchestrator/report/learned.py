"""What a run learned and forgot: matrices, the course of the metrics, the score of each task since it was learned."""

from collections.abc import Iterator, Sequence
from functools import partial

from orchestrator.console.scores import ACCURACIES, LOSSES, OF_UNION, Kind, half_shown, number, percent, scores
from orchestrator.console.views import View
from orchestrator.report.blocks import Block, Grid, Picture, Section, Words, grid_of, stripped
from orchestrator.report.pictures import Line, Values, heat_map, over_stream, panels
from orchestrator.report.source import Source
from orchestrator.track.state import Matrix, RunState
from orchestrator.track.union import union_metrics

NOT_YET = "No task is committed yet, so nothing was scored."
OVER_STREAM = ("aa", "bwt", "forgetting", "learning_accuracy")


def learned_sections(source: Source) -> Iterator[Section]:
    """Matrices, metrics over the stream and forgetting curves."""
    state = source.state
    yield Section("matrix", "Accuracy on the test splits", [*matrices(source)], NOT_YET)
    yield Section("stream", "AA and BWT over the stream", [*course(state)], NOT_YET)
    yield Section("forgetting", "What became of each task", [*forgetting(state)], NOT_YET)


def kinds_of(state: RunState) -> list[tuple[Kind, list[int]]]:
    """The kinds of scores that there are, each with its tasks, from 0."""
    every, of_loss = range(len(state.tasks)), state.of_loss
    split = [
        (ACCURACIES, [task for task in every if task not in of_loss]),
        (LOSSES, [task for task in every if task in of_loss]),
    ]
    return [(kind, tasks) for kind, tasks in split if tasks]


def matrix_of(state: RunState, kind: Kind) -> tuple[Matrix, Values]:
    """The scores of a kind after each task, and those of the untrained model."""
    if kind is ACCURACIES:
        return state.matrix("test"), state.zero_shot
    return state.losses("test"), state.zero_shot_losses


def shown_as(kind: Kind, value: float | None) -> float | None:
    """A score in the unit that people read."""
    return None if value is None else 100 * value if kind is ACCURACIES else value


def matrices(source: Source) -> Iterator[Block]:
    """A heat map per kind of scores, with the table and the lines that `status` prints."""
    state = source.state
    if not state.learned:
        return
    tables = [*scores(state, View(source.names))]
    for (kind, tasks), (table, lines) in zip(kinds_of(state), tables, strict=True):
        yield matrix_picture(state, kind, tasks, grid_of(table, folded=True))
        yield Words(stripped(lines))


def matrix_picture(state: RunState, kind: Kind, tasks: Sequence[int], table: Grid) -> Picture:
    """The matrix of a kind, a row per task that was trained; the untrained model is the first."""
    matrix, untrained = matrix_of(state, kind)
    halves = state.halves("test")
    trained = [commit.version - 1 for commit in state.commits]
    values = [[untrained[task] for task in tasks], *([matrix[row][task] for task in tasks] for row in trained)]
    spreads: list[Values] = [[None] * len(tasks), *([halves[row][task] for task in tasks] for row in trained)]
    texts = [[*map(partial(written, kind), *row)] for row in zip(values, spreads, strict=True)]
    own = [(place + 1, tasks.index(row)) for place, row in enumerate(trained) if row in tasks]
    svg = heat_map(
        f"matrix-{kind.unit}", [[shown_as(kind, value) for value in row] for row in values],
        ["(untrained)", *(state.tasks[row].name for row in trained)], [state.tasks[task].name for task in tasks],
        texts=texts, outlined=[] if state.joint else own, scale=kind.unit, down="after training", across="scored on",
        colours="viridis" if kind is ACCURACIES else "viridis_r",
    )  # fmt: skip
    says = (
        f"A row per trained task, a column per scored task. A cell has the score in {kind.unit}, with half its 95% "
        "interval; cells with a frame are scores right after a task's own training."
    )
    return Picture(kind.title, says, svg, table)


def written(kind: Kind, value: float | None, half: float | None) -> str:
    """What stands in a cell: the score, and half its interval below it; nothing if it was not measured."""
    return "" if value is None else f"{kind.form(value)}\n{half_shown(kind, value, half).strip()}".strip()


def course(state: RunState) -> Iterator[Block]:
    """AA, BWT, forgetting and learning accuracy after each task, and the same of losses."""
    moments = [state.upto(commit.version) for commit in state.commits]
    whole = [moment for moment in moments if moment.whole("test") == moment.learned]
    names = [moment.commits[-1].task for moment in whole]
    for kind, _ in kinds_of(state) if whole else ():
        keys = [key for key in kind.metrics if key in OVER_STREAM or kind is LOSSES]
        found = [moment.metrics("test") if kind is ACCURACIES else moment.loss_metrics("test") for moment in whole]
        halves = [moment.half_widths("test") for moment in whole]
        lines = [
            Line(
                kind.metrics[key],
                [shown_as(kind, each[key]) for each in found],
                [shown_as(kind, each[key]) for each in halves],
            )
            for key in keys
        ]
        yield course_picture(kind, lines, names)
    if any(commit.union for commit in state.commits):
        sizes = [task.rows.test for task in state.tasks]
        measured = union_metrics(state.commits, sizes)
        yield Words([f"{title}: {percent(measured[key])} points" for key, title in OF_UNION.items()])


def course_picture(kind: Kind, lines: Sequence[Line], names: Sequence[str]) -> Picture:
    """Lines of metrics, with a table of their values."""
    digits = ".1f" if kind is ACCURACIES else ".3f"
    rows = [
        [
            name,
            *(
                number(line.values[place], digits) + (f" ±{half:{digits}}" if (half := line.halves[place]) else "")
                for line in lines
            ),
        ]
        for place, name in enumerate(names)
    ]
    table = Grid(
        f"Metrics after each task, {kind.unit}", ["after training", *(line.name for line in lines)], rows,
        frozenset(range(1, len(lines) + 1)), folded=True,
    )  # fmt: skip
    ends = "; ".join(f"{line.name} ends at {number(line.values[-1], digits)}" for line in lines)
    parts = [[*lines[::3]], [*lines[1:3]]] if kind is ACCURACIES else [[line] for line in lines]  # levels, differences
    svg = over_stream(f"course-{kind.unit}", parts, names, kind.unit)
    return Picture(
        f"Metrics over the stream, {kind.unit}", f"{ends}. Bars are 95% intervals over test rows.", svg, table
    )


def forgetting(state: RunState) -> Iterator[Block]:
    """A panel per task: its score from its own training on."""
    last = state.whole("test") - 1
    if state.joint or last < 0:
        return
    for kind, tasks in kinds_of(state):
        matrix, _ = matrix_of(state, kind)
        halves, lines, floors = state.halves("test"), list[Line](), list[float | None]()
        for task in (each for each in tasks if each < state.learned):
            since = [None] * task
            lines.append(
                Line(
                    state.tasks[task].name,
                    [*since, *(shown_as(kind, row[task]) for row in matrix[task:])],
                    [*since, *(shown_as(kind, row[task]) for row in halves[task:])],
                )
            )
            known = state.tasks[task].floors
            floors.append(shown_as(kind, known.best) if known and kind is ACCURACIES else None)
        if lines:
            yield forgetting_picture(kind, lines, floors)


def forgetting_picture(kind: Kind, lines: Sequence[Line], floors: Values) -> Picture:
    """The panels, with a table of how each task began and ended."""
    digits = ".1f" if kind is ACCURACIES else ".3f"
    rows = []
    for line in lines:
        seen = [value for value in line.values if value is not None]
        change = f"{seen[-1] - seen[0]:+z{digits}}" if seen else "·"
        ends = [number(seen[place] if seen else None, digits) for place in (0, -1)]
        rows.append([line.name, *ends, change])
    table = Grid(
        f"Scores since a task was learned, {kind.unit}", ["task", "after its training", "now", "change"], rows,
        frozenset({1, 2, 3}), folded=True,
    )  # fmt: skip
    says = (
        f"A panel per task: its score in {kind.unit} from its own training on, with its 95% interval, above the other "
        "tasks in grey. A dotted line is the floor, which needs no model."
    )
    svg = panels(f"forgetting-{kind.unit}", lines, kind.unit, floors)
    return Picture(f"Each task since it was learned, {kind.unit}", says, svg, table)
