"""What the tasks took of the layers: budgets, how full the bases are and become, angles between tasks."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from orchestrator.console.budgets import CHOSEN, budget_table, budgets, chosen_rank
from orchestrator.console.scores import number, percent, task_title
from orchestrator.console.views import ALL
from orchestrator.gates.capacity import Fullness, fullest_by_side, fullness
from orchestrator.report.blocks import Block, Grid, Picture, Section, Words, grid_of
from orchestrator.report.pictures import Line, Values, heat_map, over_stream
from orchestrator.report.source import Angles, Source
from orchestrator.run.guards import MAX_OCCUPANCY, forecast
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState

MOST_LAYERS = 240  # rows of a heat map; of more layers, those of a kind become one row
MOST_ROWS = 12  # of the fullest bases


def layer_sections(source: Source) -> Iterator[Section]:
    """Budgets, occupancy, angles."""
    yield Section(
        "budget", "Budget by layer and task", [*budget(source.state)],
        "No committed task says which budget its layers chose.",
    )  # fmt: skip
    yield Section(
        "occupancy", "How full the layers are", [*occupancy(source)],
        "The method keeps no directions of earlier tasks, or no task is committed yet, so nothing fills up.",
    )  # fmt: skip
    yield Section(
        "angles", "Angles between tasks", [*angles(source)],
        "No angles between tasks were measured: that takes two committed tasks, and a method that measures them.",
    )  # fmt: skip


def budget(state: RunState) -> Iterator[Block]:
    """The share of r_max that each layer kept in each task, with r_eff and r_max as `status` prints them."""
    commits = [commit for commit in state.commits if commit.budget]
    names = [*dict.fromkeys(name for commit in commits for name in commit.budget)]
    if not names:
        return
    rows = {name: [name] for name in names} if len(names) <= MOST_LAYERS else ALL.rows(names)
    shares, texts = list[Values](), list[list[str]]()
    for layers in rows.values():
        found = [[*budgets(commit, layers)] for commit in commits]
        shares.append([share_of([(each.rank, each.max_rank) for each in one]) for one in found])
        texts.append([chosen_rank(one).strip("·") for one in found])
    tasks = [task_title(state, commit) for commit in commits]
    svg = heat_map(
        "budget", shares, [*rows], tasks, texts=texts, bounds=(0, 1), colours="magma", scale="r_eff of r_max",
        across="task",
    )  # fmt: skip
    whole = [share for row in shares for share in row if share is not None]
    says = (
        f"A row per layer, a column per task: the active dimensions r_eff of r_max. On average {fmean(whole):.0%} of "
        "r_max was kept."
    )
    table = grid_of(budget_table(state, commits, ALL.rows(names)), folded=True)
    yield Picture(CHOSEN, says, svg, table)


def share_of(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Ranks as a share of what they may be; None without any."""
    most = sum(most for _, most in pairs)
    return sum(rank for rank, _ in pairs) / most if most else None


def occupancy(source: Source) -> Iterator[Block]:
    """How full the fullest basis of each side was after each task, what is forecast, and the fullest bases now."""
    state, config = source.state, source.config
    protection = config.adapter.protection if config else None
    commits = [commit for commit in state.commits if commit.occupancy]
    if protection is None or not commits:
        return
    sides = [("read", protection.projects_input), ("written", protection.protects_output)]
    bounded, found = {side for side, kept_out in sides if kept_out}, [*fullness(protection, state)]
    now = fullest_by_side(found)
    lines = [side_line(state, commits, side, now.get(side)) for side, _ in sides]
    bound = (f"{MAX_OCCUPANCY} {protection.max_occupancy}", 100 * protection.max_occupancy) if bounded else None
    svg = over_stream("occupancy", [lines], source.names, "% of a layer's width", bound=bound)
    says = (
        "The fullest layer on each side, in percent of its width, after each task. A dashed line goes on at the rate "
        "of the tasks so far."
    )
    rows = [[task_title(state, commit), *(percent(fullest(commit, side)) for side, _ in sides)] for commit in commits]
    table = Grid(
        "The fullest layer after each task, %", ["after training", *(line.name for line in lines)], rows,
        frozenset({1, 2}), folded=True,
    )  # fmt: skip
    yield Picture("Occupancy and its forecast", says, svg, table)
    left = len(state.tasks) - state.learned
    told = [each.reason for each in forecast(protection, state, left)]
    yield Words([*told, *room(found, left)] if bounded else ["Adapters are kept out of no basis, so none can be full."])
    if found:
        yield fullest_grid(found)


def fullest(commit: Committed, side: str) -> float:
    """The share of its width that the fullest layer of a side fills after a commit."""
    return max(float(getattr(each, side)) for each in commit.occupancy.values())


def side_line(state: RunState, commits: Sequence[Committed], side: str, now: Fullness | None) -> Line:
    """The course of a side, dashed on to the end of the stream from what `fullness` says of it now."""
    by_version = {commit.version: 100 * fullest(commit, side) for commit in commits}
    values = [by_version.get(version) for version in range(1, state.learned + 1)]
    done, whole, dashed = state.learned, len(state.tasks), list[tuple[float, float]]()
    if now and done < whole and now.occupancy:
        per_task = 100 * now.occupancy / len(state.commits)
        dashed = [(at, min(100.0, 100 * now.occupancy + per_task * (at - done))) for at in range(done, whole + 1)]
    return Line(f"{side} directions", values, dashed=dashed)


def room(found: Sequence[Fullness], left: int) -> list[str]:
    """For how many tasks there is room on each side."""
    return [
        f"{each.shown[0].upper()}{each.shown[1:]}; at the rate of the tasks so far there is room for "
        f"{'any number of' if each.tasks == float('inf') else f'{each.tasks:.1f}'} further tasks of that kind, and "
        f"{left} are left."
        for each in fullest_by_side(found).values()
    ]


def fullest_grid(found: Sequence[Fullness]) -> Grid:
    """The fullest bases that adapters are kept out of."""
    rows = [
        [each.module, each.side, percent(each.occupancy), number(each.tasks, ".1f") if each.tasks < 1e6 else "any"]
        for each in found[:MOST_ROWS]
    ]
    more = f", the first {MOST_ROWS} of {len(found)}" if len(found) > MOST_ROWS else ""
    heads = ["layer", "side", "% of its width", "tasks that still fit"]
    return Grid(f"The fullest bases{more}", heads, rows, frozenset({2, 3}), folded=True)


def angles(source: Source) -> Iterator[Block]:
    """The smallest principal angle between what each pair of tasks writes."""
    state = source.state
    found = {version: told.principal_angles for version, told in source.manifests.items() if told.principal_angles}
    if not found:
        return
    names = source.names[: state.learned]
    rows = [found.get(version, ()) for version in range(1, len(names) + 1)]
    values = [[angle_at(row, place) for place in range(len(names) - 1)] for row in rows[1:]]
    texts = [["" if value is None else f"{value:.0f}°" for value in row] for row in values]
    svg = heat_map(
        "angles", values, names[1:], names[:-1], texts=texts, bounds=(0, 90), colours="cividis", scale="degrees",
        across="earlier task", down="later task",
    )  # fmt: skip
    earlier = range(len(names) - 1)
    cells = [[names[row], *(in_degrees(rows[row], place) for place in earlier)] for row in range(1, len(names))]
    table = Grid(
        "Smallest / mean angle, degrees", ["later task", *names[:-1]], cells, frozenset(range(1, len(names))),
        folded=True,
    )  # fmt: skip
    says = (
        "The smallest principal angle, over all layers, between the directions that two tasks write: 90° is "
        "orthogonal, 0° is a direction in common."
    )
    yield Picture("Smallest principal angles between tasks", says, svg, table)


def angle_at(row: Sequence[Angles], place: int) -> float | None:
    """The smallest angle to an earlier task, None if it was not measured."""
    return row[place].smallest if place < len(row) else None


def in_degrees(row: Sequence[Angles], place: int) -> str:
    """The smallest and the mean angle to an earlier task."""
    return f"{row[place].smallest:.1f} / {row[place].mean:.1f}" if place < len(row) else "·"
