"""Evaluation over ranks: each row is counted once."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
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
from trainers.training.evaluate import evaluate, of_all


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
        cut = [row if row > 3 else None for row in rows.tolist()]
        return Judged(torch.tensor([[float(row % 3 > 0), row] for row in rows]), [f"row {row} ü" for row in rows], cut)

    def score(self, totals: np.ndarray, rows: int) -> Score:
        return Score(float(totals[0]), rows, {"row": float(totals[1]) / rows})


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_chosen_rows_and_their_answers_from_all_ranks(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks one after the other, in turns: each turn adds up one more of the sums that all ranks need."""
    split: Any = Saying()
    rows, keep = np.array([10, 3, 0, 8, 7, 5, 1]), [3, 10]
    known: list[Tensor] = []
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    for _ in range(5):
        added = list[Tensor]()
        for rank in range(ranks):

            def reduced(tensor: Tensor, calls: Iterator[int], added: list[Tensor] = added) -> None:
                if (place := next(calls)) < len(known):
                    tensor.copy_(known[place])
                elif place == len(known):
                    added.append(tensor.clone())

            monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
            monkeypatch.setattr(dist, "all_reduce", partial(reduced, calls=count()))
            found = evaluate(split, 2, rows, keep)
        if added:
            known.append(torch.stack(added).sum(0, dtype=added[0].dtype))
    assert len(known) == 4 and known[1].tolist() == [8, 9]
    interval = pytest.approx((2 / 7, 1))  # Binomial(7, 5/7): 2.6% of it are at most 2
    assert found.score == Score(5.0, 7, {"row": sum(rows) / 7}, interval)
    assert found.values.tolist() == [0, 1, 0, 1, 1, 1, 1]
    assert (
        found.answers == {3: "row 3 ü", 10: "row 10 ü"}
        and found.cut == {10: 10}
        and found.metrics == {3: {"row": 3.0}, 10: {"row": 10.0}}
    )


@pytest.mark.usefixtures("one_process")
def test_answers_without_a_letter_and_with_half_of_a_pair() -> None:
    device = torch.device("cpu")
    assert of_all({1: "", 2: ""}, [2, 1], device) == {2: "", 1: ""} and of_all({1: "\ud83d"}, [1], device) == {
        1: "\ud83d"
    }


def test_nothing_is_gathered_if_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    split: Any = Saying()
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    found = evaluate(split, 4)
    assert found.score.rows == 11 and found.answers == {} == found.metrics


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_answered_and_the_right_label_of_each_row(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks one after the other: each row's pair is one rank's, in the order of the split."""
    oracle, right = Oracle(torch.nn.Linear(1, 1), None, 16, ""), np.arange(7) % 3
    split = split_of(oracle, [[row] * (1 + row % 4) for row in range(7)], right, torch.zeros(3, 1))
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    total = np.zeros((5, 2), int)
    for rank in range(ranks):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        labels = evaluate(split, 4, np.array([6, 0, 5, 4, 2])).labels
        assert labels is not None
        total += labels
    assert total.tolist() == [[0, 0], [2, 2], [1, 1], [-1, 2], [0, 0]]  # rows 0, 2, 4, 5, 6; row 5 gets no label
