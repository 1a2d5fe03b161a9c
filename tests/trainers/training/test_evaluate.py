"""Evaluation over ranks: each row is counted once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.families import split_of
from trainers.models.encoder import LabelEmbedding
from trainers.training.evaluate import evaluate


class Oracle(LabelEmbedding):
    """Knows every answer but that of row 5, whose number is its only token; keeps the rows of each call."""

    calls: list[list[int]] = []  # noqa: RUF012

    def predict(self, token_ids: Sequence[Sequence[int]], labels: Any, batch_size: int) -> Tensor:
        rows = [row[0] for row in token_ids]
        self.calls.append(rows)
        return torch.tensor([-1 if row == 5 else row % 3 for row in rows])


@pytest.mark.parametrize("rows", [1, 2, 3, 11, 12, 13, 24])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_counts_each_row_once(rows: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks one after the other: together they count all rows, in equally many passes of equally many rows."""
    oracle, texts = Oracle(torch.nn.Linear(1, 1), None, 16, ""), [[row] * (1 + row % 4) for row in range(rows)]
    split = split_of(oracle, texts, np.arange(rows) % 3, torch.zeros(3, 1))
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    correct, passes = 0, []
    for rank in range(ranks):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        Oracle.calls = []
        scored = evaluate(split, 4)
        assert scored.score.rows == rows and scored.values.sum() == scored.score.correct
        correct += scored.score.correct
        passes.append([len(call) for call in Oracle.calls])
    assert correct == rows - (rows > 5)
    assert all(made == passes[0] for made in passes) and max(passes[0]) <= 4
