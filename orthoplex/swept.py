"""`orthoplex.sweep`'s result."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.sweep_state import SweepState
from orthoplex.shown import as_html


@dataclass(frozen=True, kw_only=True)
class Swept(SweepState):
    """Where a sweep stands; `searched` is its configuration, `folder` has the files of its result."""

    searched: SweepConfig
    folder: Path

    def _repr_html_(self) -> str:
        from orchestrator.console.sweep import print_sweep

        return as_html(lambda: print_sweep(self.searched, self, self.folder))
