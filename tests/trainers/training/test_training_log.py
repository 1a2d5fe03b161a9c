"""The training log: as rows, as tensors of a checkpoint, and as Parquet."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from trainers.training.training_log import TrainingLog


@pytest.fixture
def log() -> TrainingLog:
    """Three rows."""
    made = TrainingLog()
    for step in (1, 2, 3):
        made.add(step, 1 / step, {"orthogonality": 0.1 * step}, {"mean_rank": 4.0 - step, "g/q": [0.1 * step, -1 / 3]})
    return made


def test_a_row_holds_loss_penalties_and_report(log: TrainingLog) -> None:
    assert log.last == {"step": 3, "loss": 1 / 3, "orthogonality": 0.1 * 3, "mean_rank": 1.0, "g/q": [0.1 * 3, -1 / 3]}
    assert log.measure("mean_rank") == 1.0 and math.isnan(log.measure("overlap"))


def test_rows_go_through_tensors_to_the_bit(log: TrainingLog) -> None:
    tensors = log.tensors()
    assert tensors["step"].dtype == torch.int64 and tensors["g/q"].shape == (3, 2)
    assert {tensor.dtype for name, tensor in tensors.items() if name != "step"} == {torch.float64}
    again = TrainingLog.of(tensors)
    assert again.rows == log.rows and [type(row["step"]) for row in again.rows] == [int] * 3
    assert TrainingLog.of(TrainingLog().tensors()).rows == []


def test_what_came_before_are_the_main_figures_of_the_last_rows(log: TrainingLog) -> None:
    figures = [{"step": n, "loss": 1 / n, "orthogonality": 0.1 * n, "mean_rank": 4.0 - n} for n in (2, 3)]
    assert log.before(2) == figures
    assert len(log.before(9)) == 3


def test_parquet_has_a_column_per_figure(log: TrainingLog, tmp_path: Path) -> None:
    log.write(tmp_path / "log.parquet")
    assert pq.read_table(tmp_path / "log.parquet").to_pylist() == log.rows
