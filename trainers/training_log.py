"""How one task's training went, step by step: loss, penalty, overlap, and every module's budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainers.adapters.layers import OAAdapter


class TrainingLog:
    """Rows of scalars, one a logging step; written as Parquet with columns `rank/<module>` and `tau/<module>`."""

    def __init__(self, adapters: Mapping[str, OAAdapter]) -> None:
        """Follows `adapters`, a mapping from module name to its adapter."""
        self.adapters = adapters
        self.rows: list[dict[str, Any]] = []

    @property
    def last(self) -> dict[str, Any]:
        """The newest row."""
        return self.rows[-1]

    @torch.no_grad()
    def add(self, step: int, loss: float, orthogonality: float, budget: float, overlap: float) -> None:
        """Appends a row: the given losses, and r_eff and τ of every module as they stand."""
        ranks = {name: int(a.active().sum()) for name, a in self.adapters.items()}
        self.rows.append(
            {
                "step": step,
                "loss": loss,
                "orthogonality": orthogonality,
                "budget": budget,
                "overlap": overlap,
                "mean_rank": sum(ranks.values()) / len(ranks),
                **{f"rank/{name}": rank for name, rank in ranks.items()},
                **{f"tau/{name}": float(a.threshold()) for name, a in self.adapters.items()},
            }
        )

    def budget(self) -> dict[str, dict[str, float]]:
        """What each module chose: {"module": {"rank": r_eff, "max_rank": …, "tau": τ}}."""
        return {
            name: {"rank": self.last[f"rank/{name}"], "max_rank": a.g.numel(), "tau": self.last[f"tau/{name}"]}
            for name, a in self.adapters.items()
        }

    def write(self, path: Path) -> None:
        """Writes the rows as Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(self.rows), path)
