"""What the lines of a group of streams say of each method: means over seeds and orders, the worst order, what it costs,
and how far it is from ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.methods.bootstrap import Difference, Values, paired
from benchmarks.methods.plan import Cell, Line, Plan, cell, values_of
from benchmarks.methods.rows import unpacked

KEPT_FIGURES = (
    "aa", "aa_union", "bwt", "forgetting", "fwt", "la", "kept", "trained", "stored_bytes", "train_s", "peak_gpu_bytes",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method in a group. `cells` are its lines that are there, `failed` those with an error, of `asked`; `figures`
    are means over cells; `worst` is the lowest AA of an order, the mean over its seeds, and which order that is."""

    method: str
    label: str
    bound: bool
    cells: Sequence[Line]
    failed: Sequence[Line]
    asked: int
    figures: Mapping[str, float | None]
    worst: tuple[float, str] | None
    share: float | None
    difference: Difference | None

    @property
    def one_seed(self) -> bool:
        """Whether all its cells have one seed."""
        return len({line["seed"] for line in self.cells}) == 1


def asked_cells(plan: Plan, method: str, group: str, lines: Mapping[str, Line]) -> list[Cell | tuple[str, str, int]]:
    """The cells of a method in a group, as `plan.cells`."""
    found: list[Cell | tuple[str, str, int]] = []
    for stream in plan.groups()[group]:
        values = values_of(plan, method, stream, lines)
        for seed in plan.seeds(method, stream):
            found.append((method, stream, seed) if values is None else cell(plan, method, stream, seed, values))
    return found


def lines_of(plan: Plan, method: str, group: str, lines: Mapping[str, Line]) -> tuple[list[Line], list[Line], int]:
    """The lines of a method's cells in a group; those that failed; and how many cells there are to be."""
    asked = asked_cells(plan, method, group, lines)
    there = [lines[each.key] for each in asked if isinstance(each, Cell) and each.key in lines]
    return (
        [line for line in there if "error" not in line], [line for line in there if "error" in line], len(asked)
    )  # fmt: skip


def rows(plan: Plan, group: str, lines: Mapping[str, Line]) -> list[Row]:
    """The methods that are asked for in a group, in the order of the plan."""
    ours, *_ = lines_of(plan, plan.ours, group, lines)
    return [row(plan, method, group, lines, ours) for method in plan.methods if asked_cells(plan, method, group, lines)]


def row(plan: Plan, method: str, group: str, lines: Mapping[str, Line], ours: Sequence[Line]) -> Row:
    """One method."""
    cells, failed, asked = lines_of(plan, method, group, lines)
    figures = {name: mean_of(cells, name) for name in KEPT_FIGURES}
    figures |= {"dimensions": share_of(cells, "ranks", "of"), "dead": share_of(cells, "dead", "layers")}
    full, kept = plan.streams[plan.groups()[group][0]].olora, figures["kept"]
    return Row(
        method=method, label=plan.methods[method].label, bound=plan.methods[method].bound, cells=cells, failed=failed,
        asked=asked, figures=figures, worst=worst(cells), share=kept / full if full and kept is not None else None,
        difference=None if method == plan.ours else difference(ours, cells),
    )  # fmt: skip


def mean_of(cells: Sequence[Line], name: str) -> float | None:
    """The mean of a figure over the cells that have it."""
    known = [line[name] for line in cells if line.get(name) is not None]
    return mean(known) if known else None


def share_of(cells: Sequence[Line], part: str, whole: str) -> float | None:
    """The share of a count of every task in another, over all tasks of the cells."""
    both = [(task.get(part), task.get(whole)) for line in cells for task in line["by_task"] if task.get(whole)]
    return sum(few for few, _ in both) / sum(many for _, many in both) if both else None


def worst(cells: Sequence[Line]) -> tuple[float, str] | None:
    """The lowest mean over seeds of AA among the orders, and its name."""
    streams = dict.fromkeys(line["stream"] for line in cells)
    found = [(mean(line["aa"] for line in cells if line["stream"] == stream), stream) for stream in streams]
    return min(found, default=None)


def difference(ours: Sequence[Line], theirs: Sequence[Line]) -> Difference | None:
    """Of AA, ours minus theirs, over the cells that both have with the values of their rows."""
    other = {(line["stream"], line["seed"]): line for line in theirs}
    pairs = []
    for line in ours:
        pair = other.get((line["stream"], line["seed"]))
        if pair and (mine := values(line)) and (its := values(pair)):
            pairs.append((line["seed"], mine, its))
    return paired(pairs)


def values(line: Line) -> Values | None:
    """The values of each task's test rows after the last task; None if the line does not have them."""
    found = line.get("correct")
    return (
        {task: unpacked(found[task], rows) for task, rows in zip(line["tasks"], line["rows"], strict=True)}
        if found
        else None
    )
