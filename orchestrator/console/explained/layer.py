"""What was decided about one layer in one task: sentences, and the course of its threshold."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from orchestrator.console.scores import number
from orchestrator.console.story import of
from trainers.training.decisions import ModuleDecision, Told, evenly

MOST_ROWS = 10  # of a trajectory on a screen
MOST_OFF = 6  # dimensions that are named
QUARTILES = {"least |g|": 0, "median |g|": 2, "largest |g|": 4}  # places among the quartiles


def sentences(found: Mapping[str, ModuleDecision]) -> Iterator[str]:
    """What was decided about a layer, a sentence or two per decision."""
    for kind, tell in (("budget", budget), ("protection", protection), ("capacity", capacity)):
        if kind in found:
            yield tell(found[kind])


def budget(decision: ModuleDecision) -> str:
    """How many dimensions the layer kept, and why."""
    outcome, thresholds = decision.outcome, decision.thresholds
    kept = f"{decision.module} kept {outcome['rank']} of {outcome['max_rank']} dimensions"
    steps = decision.inputs["steps"]
    if decision.inputs["off"] is None:
        return (
            f"{kept}: {decision.rule}, {keys(thresholds)}. Its rank stood from step {outcome['settled']} of {steps} on."
        )
    moved = f"τ began at {number(thresholds['threshold'], '.3f')} and ended at {number(thresholds['tau'], '.3f')}"
    return f"{kept}: {moved}; {fallen(decision)}.{bounded(outcome, thresholds)}"


def keys(values: Told) -> str:
    """Keys of a configuration with their values, as far as they are set."""
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def fallen(decision: ModuleDecision) -> str:
    """Which dimensions ended at or below τ, and when the last of them fell."""
    off, steps, gates = decision.inputs["off"], decision.inputs["steps"], decision.inputs["g"]
    idle = len(gates) - len(off) - decision.outcome["rank"]
    more = f"; {of(idle, 'dimension')} above it {'writes' if idle == 1 else 'write'} nothing yet" if idle > 0 else ""
    if not off:
        return f"no |g| fell to it, the least is {number(gates[-1], '.3f')}{more}"
    last = off[-1]
    when = (
        f"by step {last['step']}, the first that was logged, of {steps}"
        if last["after"] is None
        else f"after step {last['after']} and by step {last['step']} of {steps}"
    )
    which = "it fell" if len(off) == 1 else "the last fell"
    loss = "" if last["loss"] is None else f", when the loss was {number(last['loss'], '.3f')}"
    return f"{of(len(off), 'dimension')} had |g| at or below it, {which} {when}{loss}{more}"


def bounded(outcome: Told, thresholds: Told) -> str:
    """What beside the threshold held the rank, if anything did."""
    floor, cap = thresholds.get("min_rank"), thresholds.get("max_parameters")
    held = [f" adapter.min_rank {floor} let no more fall."] if floor and outcome["rank"] == floor else []
    held += [f" This τ holds what adapter.max_parameters {cap:,} adds to it."] if cap else []
    return "".join(held)


def protection(decision: ModuleDecision) -> str:
    """What earlier tasks keep of the layer, and what the task added to it."""
    before, now, width = decision.inputs, decision.outcome, decision.inputs["width"]
    if width is None:
        return f"Protection: {decision.rule}; how many directions are kept is not recorded."
    sides = ", ".join(f"{side} {before[side]} → {now[side]}" for side in ("written", "read"))
    kept = f"Directions kept of its {width}: {sides}, by {of(before['tasks'] + 1, 'task')}."
    let_go = f" {now['dropped']:.2%} of the written energy was let go of." if now["dropped"] else ""
    if not before["tasks"]:
        return f"Protection: no task came before. {kept}{let_go}"
    share = before["overlap"]
    inside = f" {share:.1%} of what its adapter writes lies in what earlier tasks write." if share else ""
    return f"Protection: {decision.rule}. {kept}{inside}{let_go}"


def capacity(decision: ModuleDecision, where: str = "") -> str:
    """How much room is left in the layer; `where` comes behind the first word."""
    inputs, bound = decision.inputs, decision.thresholds["max_occupancy"]
    side, share, verdict = (decision.outcome[key] for key in ("side", "occupancy", "verdict"))
    if verdict == "unbounded":
        return f"Room{where}: nothing bounds it, since adapters are kept out of no basis."
    words = {
        "room": "", "above": ", which is above the bound", "full": ", which leaves nothing to learn in",
        "dropped": ", after weak directions were let go of",
    }  # fmt: skip
    filled = f"{share:.0%} of its width is {side} (max_occupancy {bound:.0%}){words[verdict]}"
    return f"Room{where}: {filled}; {inputs['free']:g} directions are free."


def trajectory(decision: ModuleDecision) -> Table:
    """How the loss, τ, |g| and the rank went, in at most MOST_ROWS rows."""
    rows = decision.inputs["trajectory"]
    gates = {"τ": None, **QUARTILES} if decision.inputs["off"] is not None else {}
    table = Table("step", "loss", *gates, "on", title=None)
    for column in table.columns:
        column.justify = "right"
    for row in (rows[index] for index in evenly(len(rows), MOST_ROWS)):
        sizes = [row["tau"] if place is None else row["g"][place] for place in gates.values()]
        table.add_row(
            str(row["step"]), number(row["loss"], ".3f"), *(number(each, ".3f") for each in sizes), str(row["rank"])
        )
    return table


def switched_off(decision: ModuleDecision) -> str | None:
    """The dimensions that are off, in the order in which they fell; None if none is."""
    off: Sequence[Told] = decision.inputs["off"] or ()
    named = [f"dimension {each['dimension']} by step {each['step']} ({at_fall(each)})" for each in off[-MOST_OFF:]]
    earlier = f"; and {len(off) - MOST_OFF} before these" if len(off) > MOST_OFF else ""
    return f"off: {'; '.join(named)}{earlier}" if off else None


def at_fall(off: Told) -> str:
    """|g| and τ when a dimension fell."""
    return f"|g| {number(off['g'], '.3f')}, τ {number(off['tau'], '.3f')}"
