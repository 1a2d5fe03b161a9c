"""Evaluation over ranks: each row is counted once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.families import split_of
from trainers.messages import Score
from trainers.models.encoder import LabelEmbedding
from trainers.objectives.base import Judged
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


class Saying:
    """Two rows in three are right; answers name their rows."""

    lengths = terms = np.arange(11) % 4 + 1

    def judge(self, rows: np.ndarray, at_once: int) -> Judged:
        assert len(rows) <= at_once
        return Judged(torch.tensor([[float(row % 3 > 0), row] for row in rows]), [f"row {row}" for row in rows])

    def score(self, totals: np.ndarray, rows: int) -> Score:
        return Score(float(totals[0]), rows, {"row": float(totals[1]) / rows})


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_chosen_rows_and_their_answers_from_all_ranks(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks one after the other, twice: first what each has is noted, then each gets what all have."""
    split: Any = Saying()
    rows, keep = np.array([10, 3, 0, 8, 7, 5, 1]), [3, 10]
    sums, said = [torch.zeros(11, 2, dtype=torch.float64) for _ in range(2)], [list[Any]() for _ in range(2)]
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    for turn in range(2):
        for rank in range(ranks):
            monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)

            def reduced(tensor: Tensor, turn: int = turn) -> None:
                sums[turn] += tensor
                if turn:
                    tensor.copy_(sums[0])

            def gathered(into: list[Any], mine: Any, turn: int = turn) -> None:
                said[turn].append(mine)
                into[:] = said[0] if turn else [mine] * ranks

            monkeypatch.setattr(dist, "all_reduce", reduced)
            monkeypatch.setattr(dist, "all_gather_object", gathered)
            found = evaluate(split, 2, rows, keep)
    assert sorted(row for each in said[0] for row in each) == [3, 10]
    assert found.score == Score(5.0, 7, {"row": sum(rows) / 7}) and found.values.tolist() == [0, 1, 0, 1, 1, 1, 1]
    assert found.answers == {3: "row 3", 10: "row 10"} and found.metrics == {3: {"row": 3.0}, 10: {"row": 10.0}}


def test_nothing_is_gathered_if_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    split: Any = Saying()
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    found = evaluate(split, 4)
    assert found.score.rows == 11 and found.answers == {} == found.metrics
