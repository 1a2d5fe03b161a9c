"""Rules set beforehand that stop a stream. Pure functions of the run's state; the controller acts on them."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.run import GuardConfig
from orchestrator.track.state import RunState
from trainers.config import OrthogonalityConfig

EPSILON = 1e-9  # 0.9 − 0.85 is above 0.05 in floating point; a value on its bound passes


@dataclass(frozen=True)
class Decision:
    """Whether the stream goes on, and why not."""

    go_on: bool
    reason: str = ""


def decide(guards: GuardConfig, orthogonality: OrthogonalityConfig | None, state: RunState, left: int) -> Decision:
    """Compares the validation matrix, the parameters kept so far, and the room that `left` tasks find, with the bounds.

    A full basis stops the stream only under `saturation: stop`, and only where a task is left that would need it.
    `orthogonality` is None if the method has no bases.
    """
    measured = state.metrics("validation")
    parameters = state.total("active_parameters")
    lost, reached = measured["forgetting"], measured["aa"]
    most_lost, least, most = guards.max_forgetting, guards.min_average_accuracy, guards.max_active_parameters
    reasons = []
    if most_lost is not None and lost is not None and lost > most_lost + EPSILON:
        reasons.append(f"forgetting {lost:.4f} is above guards.max_forgetting {most_lost}")
    if least is not None and reached is not None and reached < least - EPSILON:
        reasons.append(f"AA {reached:.4f} is below guards.min_average_accuracy {least}")
    if most is not None and parameters > most:
        reasons.append(f"{parameters} parameters are above guards.max_active_parameters {most}")
    if left and orthogonality and orthogonality.saturation == "stop":
        full = [room for room in rooms(orthogonality, state) if room.occupancy > orthogonality.max_occupancy + EPSILON]
        reasons += [
            f"the {room.side} directions of {room.module} fill {room.occupancy:.0%} of its width, above "
            f"adapter.orthogonality.max_occupancy {orthogonality.max_occupancy}"
            + (f", and so in {len(full) - 1} more layers" if len(full) > 1 else "")
            for room in full[:1]
        ]
    return Decision(not reasons, "; ".join(reasons))


@dataclass(frozen=True)
class Room:
    """How full the basis of one side (`written` or `read`) of a module is, as a share of its width, and how many tasks
    like those so far still fit below `max_occupancy`."""

    module: str
    side: str
    occupancy: float
    tasks: float


def rooms(orthogonality: OrthogonalityConfig | None, state: RunState) -> Iterator[Room]:
    """The bases that keep adapters apart, fullest first; none before the first commit."""
    if orthogonality is None:
        return
    sides = [("written", orthogonality.side != "input"), ("read", orthogonality.projects_input)]
    taken = state.commits[-1].get("occupancy", {}) if state.commits else {}
    found = [(shares[side], module, side) for module, shares in taken.items() for side, held in sides if held]
    for occupancy, module, side in sorted(found, key=lambda item: -item[0]):
        free = max(0.0, orthogonality.max_occupancy - occupancy)
        yield Room(module, side, occupancy, free * len(state.commits) / occupancy if occupancy else float("inf"))


def forecast(orthogonality: OrthogonalityConfig | None, state: RunState, left: int) -> list[str]:
    """A warning a side whose fullest basis has no room for the `left` tasks, if they take what those so far took."""
    if orthogonality is None:
        return []
    policy = {"stop": "the stream will stop there", "drop": "the weakest directions will be dropped from there on"}
    fullest: dict[str, Room] = {}
    for room in rooms(orthogonality, state):
        fullest.setdefault(room.side, room)
    return [
        f"the {room.side} directions of {room.module} fill {room.occupancy:.0%} of its width; at this rate there is "
        f"room for {room.tasks:.1f} of the {left} tasks left, then {policy[orthogonality.saturation]}"
        for room in fullest.values()
        if room.tasks < left
    ]
