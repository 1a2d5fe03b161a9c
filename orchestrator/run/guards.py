"""Rules set beforehand that stop a stream. Pure functions of the run's state; the controller acts on them."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.run import GuardConfig
from orchestrator.track.bounds import above, breaches
from orchestrator.track.state import RunState
from trainers.config import OrthogonalityConfig


@dataclass(frozen=True)
class Decision:
    """Whether the stream goes on, and why not."""

    go_on: bool
    reason: str = ""


def decide(guards: GuardConfig, orthogonality: OrthogonalityConfig | None, state: RunState, left: int) -> Decision:
    """Compares the validation matrix, the parameters kept so far, and the room that `left` tasks find, with the bounds.

    A full basis stops the stream only under `saturation: stop`, and only if a task is left that would need it.
    `orthogonality` is None if the method has no bases.
    """
    reasons = breaches(guards, state.measured, "guards.")
    if left and orthogonality and orthogonality.saturation == "stop":
        full = [room for room in rooms(orthogonality, state) if above(room.occupancy, orthogonality.max_occupancy)]
        reasons += [
            f"the {room.side} directions of {room.module} fill {room.occupancy:.0%} of its width, above "
            f"adapter.orthogonality.max_occupancy {orthogonality.max_occupancy}"
            + (f", and so in {len(full) - 1} more layers" if len(full) > 1 else "")
            for room in full[:1]
        ]
    return Decision(not reasons, "; ".join(reasons))


@dataclass(frozen=True, kw_only=True)
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
    taken = state.commits[-1].occupancy if state.commits else {}
    found = [(shares.written, module, "written") for module, shares in taken.items() if orthogonality.side != "input"]
    found += [(shares.read, module, "read") for module, shares in taken.items() if orthogonality.projects_input]
    for occupancy, module, side in sorted(found, key=lambda item: -item[0]):
        free = max(0.0, orthogonality.max_occupancy - occupancy)
        fit = free * len(state.commits) / occupancy if occupancy else float("inf")
        yield Room(module=module, side=side, occupancy=occupancy, tasks=fit)


def forecast(orthogonality: OrthogonalityConfig | None, state: RunState, left: int) -> list[str]:
    """A warning per side whose fullest basis has no room for the `left` tasks, if they take what those so far took."""
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
