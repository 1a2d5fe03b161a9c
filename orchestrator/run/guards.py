"""Rules set beforehand that stop a stream. Pure functions of the run's state; the controller acts on them."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.run import GuardConfig
from orchestrator.log.decision import Decision
from orchestrator.track.bounds import above, judge
from orchestrator.track.state import RunState
from trainers.method_config import OrthogonalityConfig

MAX_OCCUPANCY = "adapter.orthogonality.max_occupancy"
ROUNDING = "adapter.rounding"
LEAST_KEPT = 0.9  # of the change that tasks make to the weights; below, a run warns


def decide(
    guards: GuardConfig, orthogonality: OrthogonalityConfig | None, state: RunState, left: int
) -> list[Decision]:
    """One decision per guard that is set. It compares the validation matrix, the parameters kept so far, or the room
    for the `left` tasks with its bound. The stream goes on if no decision is `stop`. If a guard was set when not all
    tasks were scored any more, the matrix counts as far as they were.

    A full basis stops the stream only under `saturation: stop`, and only if a task is left that would need it. One that
    fills its whole layer, and that adapters are projected out of, always stops it: they would be 0.
    `orthogonality` is None if the method has no bases.
    """
    subject = f"v{state.learned}"
    asked = any(getattr(guards, key) is not None for key in type(guards).model_fields)  # measuring reads whole matrices
    judged = judge(guards, state.measured_last, subject, "guards.") if asked else []
    return judged + _full(orthogonality, state, left, subject)


def _full(orthogonality: OrthogonalityConfig | None, state: RunState, left: int, subject: str) -> list[Decision]:
    """The decision to stop at full bases, if there are any."""
    if orthogonality is None or not left:
        return []
    bound, stops = orthogonality.max_occupancy, orthogonality.saturation == "stop"
    found = [*fullness(orthogonality, state)]
    shut = [each for each in found if each.shut]
    full = shut or [each for each in found if stops and above(each.occupancy, bound)]
    if not full:
        return []
    more = f", and so in {len(full) - 1} more layers" if len(full) > 1 else ""
    limit = f", above {MAX_OCCUPANCY} {bound} ({100 * bound:g}%)"
    why = ", and what a further task learns there is projected out" if shut else limit
    reason = f"{full[0].shown}{why}{more}"
    return [
        Decision(
            rule=MAX_OCCUPANCY, subject=subject, measured=full[0].occupancy, bound=bound, verdict="stop", reason=reason
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Fullness:
    """How full the basis of one side (`written` or `read`) of a module is, as a share of its width, and how many tasks
    like those so far still fit below `max_occupancy`. `shut`: it has no direction left, and adapters are projected
    out of it."""

    module: str
    side: str
    occupancy: float
    tasks: float
    shut: bool

    @property
    def shown(self) -> str:
        """In words."""
        return f"the {self.side} directions of {self.module} fill {self.occupancy:.0%} of its width"


def fullness(orthogonality: OrthogonalityConfig | None, state: RunState) -> Iterator[Fullness]:
    """The bases that keep adapters apart, fullest first; none before the first commit."""
    if orthogonality is None:
        return
    taken = state.commits[-1].occupancy if state.commits else {}
    found = [(shares.written, module, "written") for module, shares in taken.items() if orthogonality.protects_output]
    found += [(shares.read, module, "read") for module, shares in taken.items() if orthogonality.projects_input]
    for occupancy, module, side in sorted(found, key=lambda item: -item[0]):
        free = max(0.0, orthogonality.max_occupancy - occupancy)
        fit = free * len(state.commits) / occupancy if occupancy else float("inf")
        projected = orthogonality.projects_input if side == "read" else orthogonality.projects_output
        yield Fullness(module=module, side=side, occupancy=occupancy, tasks=fit, shut=projected and occupancy >= 1)


def forecast(orthogonality: OrthogonalityConfig | None, state: RunState, left: int) -> list[Decision]:
    """One warning per side whose fullest basis has no room for the `left` tasks at the rate of the tasks so far."""
    if orthogonality is None:
        return []
    policy = {"stop": "the stream will stop there", "drop": "the weakest directions will be dropped from there on"}
    fullest: dict[str, Fullness] = {}
    for each in fullness(orthogonality, state):
        fullest.setdefault(each.side, each)
    return [
        Decision(
            rule=MAX_OCCUPANCY, subject=f"v{state.learned}", measured=each.occupancy,
            bound=orthogonality.max_occupancy, verdict="warn",
            reason=f"{each.shown}; at this rate there is room for {each.tasks:.1f} of the {left} tasks left, then "
            f"{policy[orthogonality.saturation]}",
        )
        for each in fullest.values()
        if each.tasks < left
    ]  # fmt: skip


def rounded_off(state: RunState) -> list[Decision]:
    """A warning if the weights, as they are rounded, hold less than LEAST_KEPT of what the tasks so far change."""
    kept = state.commits[-1].kept if state.commits else None
    if kept is None or kept.overall >= LEAST_KEPT:
        return []
    least = min(kept.modules, key=lambda name: kept.modules[name])
    reason = (
        f"the bfloat16 weights hold {kept.overall:.0%} of the change that the tasks make to them, and {least} "
        f"{kept.modules[least]:.0%}; the rest is lost by rounding. Begin a run with {ROUNDING} stochastic, or with "
        "none, which holds the weights that change in float32"
    )
    return [
        Decision(
            rule=ROUNDING, subject=f"v{state.learned}", measured=float(kept.overall), bound=LEAST_KEPT,
            verdict="warn", reason=reason,
        )
    ]  # fmt: skip
