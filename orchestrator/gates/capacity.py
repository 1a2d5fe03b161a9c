"""How full the bases are that keep a stream's adapters apart. A pure function of its state."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.track.state import RunState
from trainers.method_config import OrthogonalityConfig


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
    found = [
        (getattr(shares, side), module, side) for side in orthogonality.counted for module, shares in taken.items()
    ]
    for occupancy, module, side in sorted(found, key=lambda item: -item[0]):
        free = max(0.0, orthogonality.max_occupancy - occupancy)
        fit = free * len(state.commits) / occupancy if occupancy else float("inf")
        projected = orthogonality.projects_input if side == "read" else orthogonality.projects_output
        yield Fullness(module=module, side=side, occupancy=occupancy, tasks=fit, shut=projected and occupancy >= 1)


def fullest_by_side(found: Iterable[Fullness]) -> dict[str, Fullness]:
    """By side, the first of its bases: of `fullness` the fullest one."""
    fullest: dict[str, Fullness] = {}
    for each in found:
        fullest.setdefault(each.side, each)
    return fullest
