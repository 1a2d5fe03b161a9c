"""The log of one task's training, step by step: loss, penalties, and what the method reports of its modules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers.methods.base import Row

FIGURES = ("step", "loss", "orthogonality", "functional", "overlap", "mean_rank")


class TrainingLog:
    """Rows, one per logging step. As Parquet it has one column each for `step`, `loss`, every penalty and every key of
    the method's `report`: for oa `overlap`, `mean_rank`, `rank/<module>`, `tau/<module>`, `g/<module>` (R,)."""

    def __init__(self) -> None:
        """Empty."""
        self.rows: list[dict[str, Any]] = []

    @property
    def last(self) -> dict[str, Any]:
        """The newest row."""
        return self.rows[-1]

    def add(self, step: int, loss: float, penalties: Mapping[str, float], report: Row) -> None:
        """Appends a row: the loss, the method's penalties without their weights, and its report."""
        self.rows.append({"step": step, "loss": loss, **penalties, **report})

    def measure(self, key: str) -> float:
        """A figure of the newest row; NaN if the row has none of that name."""
        return float(self.last.get(key, float("nan")))

    def before(self, count: int) -> list[dict[str, Any]]:
        """The main figures of the last `count` rows, as far as the rows have them."""
        return [{key: row[key] for key in FIGURES if key in row} for row in self.rows[-count:]]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The rows by column."""
        return {key: [row[key] for row in self.rows] for key in self.last} if self.rows else {}

    def with_course(self, course: "TrainingLog") -> dict[str, list[Any]]:
        """The rows of both in the order of their steps, by column: those that both have."""
        if not course.rows:
            return self.columns
        rows = sorted([*self.rows, *course.rows], key=lambda row: row["step"])
        return {key: [row[key] for row in rows] for key in self.last if key in course.last}

    def tensors(self) -> dict[str, Tensor]:
        """The rows by column, for a checkpoint: whole numbers as int64, the rest as float64."""
        return {key: torch.tensor(column, dtype=_kind(column[-1])) for key, column in self.columns.items()}

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
