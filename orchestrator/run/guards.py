"""Rules set beforehand that stop a stream. Pure functions of the run's state; the controller acts on them."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.run import GuardConfig
from orchestrator.log.decision import Decision
from orchestrator.track.bounds import above, judge
from orchestrator.track.state import RunState
from trainers.config import OrthogonalityConfig

MAX_OCCUPANCY = "adapter.orthogonality.max_occupancy"


def decide(guards: GuardConfig, orthogonality: OrthogonalityConfig, state: RunState, left: int) -> list[Decision]:
    """A decision per guard that is set: it compares the validation matrix, the parameters kept so far, or the room that
    `left` tasks find, with its bound. The stream goes on if none is to `stop`.

    A full basis stops the stream only under `saturation: stop`, and only if a task is left that would need it.
    """
    subject = f"v{len(state.commits)}"
    return judge(guards, state.measured, subject, "guards.") + _full(orthogonality, state, left, subject)


def _full(orthogonality: OrthogonalityConfig, state: RunState, left: int, subject: str) -> list[Decision]:
    """The decision to stop at full bases, if there are any."""
    bound = orthogonality.max_occupancy
    full = [room for room in rooms(orthogonality, state) if above(room.occupancy, bound)]
    if not (left and full and orthogonality.saturation == "stop"):
        return []
    more = f", and so in {len(full) - 1} more layers" if len(full) > 1 else ""
    reason = f"{full[0].shown}, above {MAX_OCCUPANCY} {bound}{more}"
    return [
        Decision(
            rule=MAX_OCCUPANCY, subject=subject, measured=full[0].occupancy, bound=bound, verdict="stop", reason=reason
        )
    ]


@dataclass(frozen=True)
class Room:
    """How full the basis of one side (`written` or `read`) of a module is, as a share of its width, and how many tasks
    like those so far still fit below `max_occupancy`."""

    module: str
    side: str
    occupancy: float
    tasks: float

    @property
    def shown(self) -> str:
        """In words."""
        return f"the {self.side} directions of {self.module} fill {self.occupancy:.0%} of its width"


def rooms(orthogonality: OrthogonalityConfig, state: RunState) -> Iterator[Room]:
    """The bases that keep adapters apart, fullest first; none before the first commit."""
    sides = [("written", orthogonality.side != "input"), ("read", orthogonality.projects_input)]
    taken = state.commits[-1].get("occupancy", {}) if state.commits else {}
    found = [(shares[side], module, side) for module, shares in taken.items() for side, held in sides if held]
    for occupancy, module, side in sorted(found, key=lambda item: -item[0]):
        free = max(0.0, orthogonality.max_occupancy - occupancy)
        yield Room(module, side, occupancy, free * len(state.commits) / occupancy if occupancy else float("inf"))


def forecast(orthogonality: OrthogonalityConfig, state: RunState, left: int) -> list[Decision]:
    """A warning per side whose fullest basis has no room for the `left` tasks, if they take what those so far took."""
    policy = {"stop": "the stream will stop there", "drop": "the weakest directions will be dropped from there on"}
    fullest: dict[str, Room] = {}
    for room in rooms(orthogonality, state):
        fullest.setdefault(room.side, room)
    return [
        Decision(
            rule=MAX_OCCUPANCY, subject=f"v{len(state.commits)}", measured=room.occupancy,
            bound=orthogonality.max_occupancy, verdict="warn",
            reason=f"{room.shown}; at this rate there is room for {room.tasks:.1f} of the {left} tasks left, then "
            f"{policy[orthogonality.saturation]}",
        )
        for room in fullest.values()
        if room.tasks < left
    ]  # fmt: skip
