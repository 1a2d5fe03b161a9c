"""Budgets that layers chose, as people read them: r_eff per layer and task."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from orchestrator.console.scores import task_title
from orchestrator.console.screen import fits, out, print_table
from orchestrator.console.views import ALL, View
from orchestrator.track.events import Committed, ModuleBudget
from orchestrator.track.state import RunState

Column = Sequence[float | Sequence[float] | None]  # of training.parquet: g of a module is a vector per step
Logged = Mapping[str, Column]
CHOSEN = "Budget chosen: active dimensions r_eff (of max_rank)"
FEWER = "layers of a kind are one row, with their mean; --module PATTERN shows single ones, --json all"


def print_budgets(state: RunState, view: View = ALL) -> None:
    """r_eff of each module for each task; of many layers by kind, of many tasks in brief."""
    commits = [commit for commit in view.commits(state) if commit.budget]
    rows = view.rows(module for commit in commits for module in commit.budget)
    if not rows:
        return
    table = budget_table(state, commits, rows)
    if not (view.tasks or fits(table)):
        print_table(brief_table(state, commits, [layer for layers in rows.values() for layer in layers]))
        out.print(
            "  a row per task, since a column per task does not fit; --task NAME shows a task's layers, --json all"
        )
        return
    print_table(table)
    if any(len(layers) > 1 for layers in rows.values()):
        out.print(f"  {FEWER}")


def budget_table(state: RunState, commits: Sequence[Committed], rows: Mapping[str, Sequence[str]]) -> Table:
    """r_eff of modules (rows) for tasks (columns)."""
    table = Table(title=CHOSEN, title_justify="left")
    table.add_column("module")
    for commit in commits:
        table.add_column(escape(task_title(state, commit)), justify="right")
    for row, layers in rows.items():
        table.add_row(escape(row), *(chosen_rank([*budgets(commit, layers)]) for commit in commits))
    return table


def budgets(commit: Committed, layers: Sequence[str]) -> Iterator[ModuleBudget]:
    """The budgets of these layers, as far as a commit has them."""
    return (commit.budget[layer] for layer in layers if layer in commit.budget)


def chosen_rank(found: Sequence[ModuleBudget]) -> str:
    """r_eff of r_max, of several layers their means; a dot if there is none."""
    if not found:
        return "·"
    rank, most = (fmean(getattr(each, key) for each in found) for key in ("rank", "max_rank"))
    return f"{rank:.0f}/{most:.0f}" if len(found) == 1 else f"{rank:.1f}/{most:g}"


def brief_table(state: RunState, commits: Sequence[Committed], layers: Sequence[str]) -> Table:
    """A row per task: r_eff over its layers, how many are off, how many at their ceiling."""
    table = Table(title=f"{CHOSEN}, over {len(layers)} layers", title_justify="left")
    for column in ("task", "mean r_eff", "least", "most", "layers at 0", "layers full"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for commit in commits:
        found = [*budgets(commit, layers)]
        ranks = [each.rank for each in found]
        full, empty = sum(each.rank >= each.max_rank for each in found), sum(rank == 0 for rank in ranks)
        table.add_row(
            escape(task_title(state, commit)), chosen_rank(found), f"{min(ranks):.0f}", f"{max(ranks):.0f}",
            f"{empty}", f"{full}",
        )  # fmt: skip
    return table


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def numbers(column: Column) -> list[float | None]:
    """A column that holds a number per step."""
    return [each for each in column if not isinstance(each, Sequence)]
