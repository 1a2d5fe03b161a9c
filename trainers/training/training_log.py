"""How one task's training went, step by step: loss, penalty, overlap, and every module's budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers.methods.oa.bank import ModuleReport


class TrainingLog:
    """Rows, one a logging step; as Parquet, columns of scalars, `rank/<module>`, `tau/<module>`, `g/<module>` (R,)."""

    def __init__(self) -> None:
        """Empty."""
        self.rows: list[dict[str, Any]] = []

    @property
    def last(self) -> dict[str, Any]:
        """The newest row."""
        return self.rows[-1]

    def add(
        self, step: int, loss: float, orthogonality: float, budget: float, modules: Mapping[str, ModuleReport]
    ) -> None:
        """Appends a row: the given losses, and every module's r_eff, τ and g as they stand.

        `overlap` is the mean over the modules.
        """
        mean = {key: sum(getattr(m, key) for m in modules.values()) / len(modules) for key in ("overlap", "rank")}
        self.rows.append(
            {
                "step": step,
                "loss": loss,
                "orthogonality": orthogonality,
                "budget": budget,
                "overlap": mean["overlap"],
                "mean_rank": mean["rank"],
                **{f"rank/{name}": module.rank for name, module in modules.items()},
                **{f"tau/{name}": module.tau for name, module in modules.items()},
                **{f"g/{name}": module.g_R.tolist() for name, module in modules.items()},
            }
        )

    def budget(self) -> dict[str, dict[str, float]]:
        """What each module chose: {"module": {"rank": r_eff, "max_rank": …, "tau": τ}}."""
        names = [key.removeprefix("g/") for key in self.last if key.startswith("g/")]
        return {
            name: {
                "rank": self.last[f"rank/{name}"],
                "max_rank": len(self.last[f"g/{name}"]),
                "tau": self.last[f"tau/{name}"],
            }
            for name in names
        }

    def tensors(self) -> dict[str, Tensor]:
        """The rows by column, for a checkpoint: whole numbers as int64, the rest as float64."""
        return (
            {key: torch.tensor([row[key] for row in self.rows], dtype=_kind(self.last[key])) for key in self.last}
            if self.rows
            else {}
        )

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "TrainingLog":
        """The inverse of `tensors`."""
        log = TrainingLog()
        columns = {key: column.tolist() for key, column in tensors.items()}
        rows = zip(*columns.values(), strict=True)
        log.rows = [dict(zip(columns, row, strict=True)) for row in rows]
        return log

    def write(self, path: Path) -> None:
        """Writes the rows as Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(self.rows), path)


def _kind(value: Any) -> torch.dtype:
    return torch.int64 if isinstance(value, int) else torch.float64
