"""Rules set beforehand that stop a stream. Pure functions of the run's state; the controller acts on them."""

from collections.abc import Mapping

from orchestrator.config.run import GuardConfig
from orchestrator.gates.bounds import Noise, above, judge
from orchestrator.gates.capacity import fullest_by_side, fullness
from orchestrator.gates.figures import measured
from orchestrator.log.decision import Decision
from orchestrator.track.state import RunState
from trainers.method_config import MAX_OCCUPANCY, OrthogonalityConfig

ROUNDING = "adapter.rounding"
LEAST_KEPT = 0.9  # of the change that tasks make to the weights; below, a run warns


def judged(guards: GuardConfig, state: RunState, noise: Mapping[str, Noise] | None = None) -> list[Decision]:
    """One decision per guard that is set, on what was learned last. If a guard was set when not all tasks were scored
    any more, the matrix counts as far as they were."""
    if not guards.asks([*type(guards).model_fields]):
        return []  # measuring reads whole matrices
    return judge(guards, measured(state, last_whole=True), f"v{state.learned}", "guards.", noise=noise)


def full(orthogonality: OrthogonalityConfig | None, state: RunState, left: int) -> list[Decision]:
    """The decision to stop at full bases, if there are any.

    A full basis stops the stream only under `saturation: stop`, and only if a task is left that would need it. One that
    fills its whole layer, and that adapters are projected out of, always stops it: they would be 0.
    `orthogonality` is None if the method has no bases.
    """
    if orthogonality is None or not left:
        return []
    bound, stops = orthogonality.max_occupancy, orthogonality.saturation == "stop"
    found = [*fullness(orthogonality, state)]
    shut = [each for each in found if each.shut]
    filled = shut or [each for each in found if stops and above(each.occupancy, bound)]
    if not filled:
        return []
    more = f", and so in {len(filled) - 1} more layers" if len(filled) > 1 else ""
    limit = f", above {MAX_OCCUPANCY} {bound} ({100 * bound:g}%)"
    why = ", and what a further task learns there is projected out" if shut else limit
    reason = f"{filled[0].shown}{why}{more}"
    return [
        Decision(
            rule=MAX_OCCUPANCY,
            subject=f"v{state.learned}",
            measured=filled[0].occupancy,
            bound=bound,
            verdict="stop",
            reason=reason,
        )
    ]


def forecast(orthogonality: OrthogonalityConfig | None, state: RunState, left: int) -> list[Decision]:
    """One warning per side whose fullest basis has no room for the `left` tasks at the rate of the tasks so far."""
    if orthogonality is None:
        return []
    policy = {"stop": "the stream will stop there", "drop": "the weakest directions will be dropped from there on"}
    return [
        Decision(
            rule=MAX_OCCUPANCY, subject=f"v{state.learned}", measured=each.occupancy,
            bound=orthogonality.max_occupancy, verdict="warn",
            reason=f"{each.shown}; at this rate there is room for {each.tasks:.1f} of the {left} tasks left, then "
            f"{policy[orthogonality.saturation]}",
        )
        for each in fullest_by_side(fullness(orthogonality, state)).values()
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
