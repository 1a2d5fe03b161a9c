"""What was decided about the layers of one task: sentences over all, then layers in detail or a table."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from orchestrator.console.budgets import Logged, budgets, chosen_rank, mean, numbers
from orchestrator.console.explained import layer
from orchestrator.console.explained.advice import verdict
from orchestrator.console.scores import number, task_title
from orchestrator.console.screen import fits, out, print_table
from orchestrator.console.story import of
from orchestrator.console.views import View
from orchestrator.registry.decisions import Decided
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState
from trainers.training.decisions import ModuleDecision

MOST_TOLD = 6  # layers in detail
FEWER = "layers of a kind are one row, with their mean; --module PATTERN shows single ones, --json all"
DETAIL = f"--module PATTERN tells the course of τ and |g| of up to {MOST_TOLD} layers"


def print_task(state: RunState, found: Decided, log: Logged, view: View) -> None:
    """The decisions about the layers of a task that the view asks for. `log` are the columns of its training.parquet,
    which are needed if no rule chose its ranks."""
    commit = found.commit
    held = "quarantined, would be " if state.quarantined and state.quarantined.version == commit.version else ""
    out.print(f"\n{task_title(state, commit)} ({held}{state.reference(commit)})", markup=False)
    layers = view.layers(commit.budget)
    chosen = {name: mine["budget"] for name in layers if "budget" in (mine := found.of(name))}
    if view.module and len(layers) <= MOST_TOLD:
        for name in layers:
            print_layer(found.of(name))
    else:
        for line in overall(found, [*chosen.values()], layers):
            say(line)
        print_rows(commit, chosen, log, view)
    if found.chosen and (told := verdict(found.chosen)):
        say(told)
    shared = "" if commit.overlap is None else f"overlap with earlier tasks {number(commit.overlap, '.2%')}, "
    cost = f", training {commit.cost.train_s:.0f} s on {of(commit.cost.workers, 'worker')}" if commit.cost else ""
    say(f"{shared}parameters {number(commit.active_parameters, ',.0f')}{cost}")


def say(line: str) -> None:
    """A line about a task."""
    out.print(f"  {line}", markup=False)


def print_layer(found: Mapping[str, ModuleDecision]) -> None:
    """One layer: sentences, and the course of its budget."""
    for line in layer.sentences(found):
        say(line)
    if "budget" in found:
        print_table(layer.trajectory(found["budget"]))
        if off := layer.switched_off(found["budget"]):
            say(off)


def overall(found: Decided, chosen: Sequence[ModuleDecision], layers: Sequence[str]) -> Iterator[str]:
    """What was decided about all layers that are asked for."""
    if chosen:
        yield from budget(chosen)
    kept = [mine["protection"] for name in layers if "protection" in (mine := found.of(name))]
    if kept:
        yield protection(kept)
    rooms = [mine["capacity"] for name in layers if "capacity" in (mine := found.of(name))]
    if rooms:
        tightest = max(rooms, key=lambda each: each.outcome["occupancy"] or 0.0)
        yield layer.capacity(tightest, f", least in {tightest.module}" if tightest.outcome["occupancy"] else "")


def budget(chosen: Sequence[ModuleDecision]) -> Iterator[str]:
    """How many dimensions layers kept, and how τ and |g| decided that."""
    ranks, most = ([each.outcome[key] for each in chosen] for key in ("rank", "max_rank"))
    full, empty = sum(rank >= top for rank, top in zip(ranks, most, strict=True)), ranks.count(0)
    kept = f"kept {round(fmean(ranks), 1):g} of {round(fmean(most), 1):g} dimensions"
    if min(ranks) == max(ranks) and min(most) == max(most):
        kept += " each" * (len(chosen) > 1)
    else:
        kept += f" on average, {min(ranks)} to {max(ranks)}; {full} kept all, {empty} none"
    yield f"{of(len(chosen), 'layer')} {kept}."
    if any(each.inputs["g"] is None for each in chosen):
        yield f"{chosen[0].rule}, {layer.keys(chosen[0].thresholds)}."
        return
    taus, starts = ([each.thresholds[key] for each in chosen] for key in ("tau", "threshold"))
    off = [each for decision in chosen for each in decision.inputs["off"]]
    last = f", the last by step {max(each['step'] for each in off)} of {chosen[0].inputs['steps']}" if off else ""
    yield (
        f"τ began at {starts[0]:.3f} and ended at {min(taus):.3f} to {max(taus):.3f}; {len(off)} of "
        f"{of(sum(len(each.inputs['g']) for each in chosen), 'dimension')} ended with |g| at or below it{last}."
    )


def protection(kept: Sequence[ModuleDecision]) -> str:
    """What earlier tasks keep of layers, and what the task added."""
    known = [each for each in kept if each.outcome["written"] is not None]
    if not known:
        return f"Protection: {kept[0].rule}."
    sides = ", ".join(
        f"{side} {fmean(each.inputs[side] for each in known):.1f} → {fmean(each.outcome[side] for each in known):.1f}"
        for side in ("written", "read")
    )
    tasks = known[0].inputs["tasks"]
    rule = kept[0].rule if tasks else "no task came before"
    return f"Protection: {rule}. Directions kept per layer, on average: {sides}."


def print_rows(commit: Committed, chosen: Mapping[str, ModuleDecision], log: Logged, view: View) -> None:
    """A table of all layers that are asked for, kinds of many in a row."""
    rows = view.rows(commit.budget)
    if not chosen and not log:
        return
    table = rows_table(commit, chosen, log, rows)
    if not fits(table) and (shared := shared_start([*rows])):
        say(f"names below begin with {shared}")
        rows = {name.removeprefix(shared): layers for name, layers in rows.items()}
        table = rows_table(commit, chosen, log, rows)
    print_table(table)
    if any(len(layers) > 1 for layers in rows.values()):
        say(FEWER)
    if chosen and any(each.inputs["g"] for each in chosen.values()):
        say(DETAIL)


def rows_table(
    commit: Committed, chosen: Mapping[str, ModuleDecision], log: Logged, rows: Mapping[str, Sequence[str]]
) -> Table:
    """The table of these rows, by what is known of them."""
    return choice_table(commit, chosen, rows) if chosen else rank_table(commit, log, rows)


def shared_start(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot."""
    parts = [*takewhile(lambda each: len({*each}) == 1, zip(*(name.split(".")[:-1] for name in names), strict=False))]
    return "".join(f"{part[0]}." for part in parts) if len(names) > 1 else ""


def choice_table(commit: Committed, chosen: Mapping[str, ModuleDecision], rows: Mapping[str, Sequence[str]]) -> Table:
    """How r_eff, τ and |g| of each row came out, and by which step r_eff stood; of several layers the means, and the
    last of their steps."""
    gated = any(each.inputs["g"] for each in chosen.values())
    table = Table("module", "max → r_eff", *(("τ₀ → τ", "median |g|") if gated else ()), "settled at")
    for row, layers in rows.items():
        mine = [chosen[name] for name in layers if name in chosen]
        rank, _, most = chosen_rank([*budgets(commit, layers)]).partition("/")
        moved = [course(mine), number(mean([middle(each) for each in mine]), ".3f")] if gated else []
        table.add_row(
            escape(row), f"{most} → {rank}", *moved, str(max((each.outcome["settled"] for each in mine), default="·"))
        )
    return table


def course(chosen: Sequence[ModuleDecision]) -> str:
    """τ at the start and at the end, the means of layers."""
    start, end = (mean([each.thresholds[key] for each in chosen]) for key in ("threshold", "tau"))
    return f"{number(start, '.3f')} → {number(end, '.3f')}"


def middle(decision: ModuleDecision) -> float | None:
    """The median |g| at the end."""
    last = decision.inputs["trajectory"][-1]
    found: float | None = last["g"][2] if "g" in last else None
    return found


def rank_table(commit: Committed, log: Logged, rows: Mapping[str, Sequence[str]]) -> Table:
    """The rank of each row, and how large its update became, if the log has that; means of several layers."""
    table = Table("module", "rank", "‖ΔW‖")
    for row, layers in rows.items():
        norms = [numbers(log.get(f"norm/{layer}", [None]))[-1] for layer in layers]
        rank = chosen_rank([*budgets(commit, layers)]).partition("/")[0]
        table.add_row(escape(row), rank, number(mean(norms), ".3f"))
    return table
