"""Which splits an order has scored, on which rows, and which answers are kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from trainers.config import TrainConfig
from trainers.data.answers import Asked, KeptAnswer
from trainers.data.collate import Batch
from trainers.messages import NOT_SCORED, Order, Progress, Score
from trainers.objectives.base import Judged
from trainers.training.evaluate import drawn
from trainers.workers.scoring import Scoring

pytestmark = pytest.mark.usefixtures("one_process")


class Counted:
    """A split whose answers name their rows, and are right in every third row; it keeps the rows it was asked for."""

    def __init__(self, rows: int, *, generates: bool = True) -> None:
        self.lengths = np.arange(rows, 0, -1)
        self.terms, self.generates, self.judged = np.ones(rows), generates, list[int]()

    def judge(self, rows: np.ndarray, at_once: int) -> Judged:
        self.judged += rows.tolist()
        assert len(rows) <= at_once
        return Judged(
            torch.tensor([[float(row % 3 == 0), row] for row in rows]),
            [f"answer {row}" for row in rows] if self.generates else (),
        )

    def score(self, totals: np.ndarray, rows: int) -> Score:
        return Score(float(totals[0]), rows, {"first": float(totals[0]) / rows, "row": float(totals[1]) / rows})

    def in_words(self, row: int) -> Asked:
        assert self.generates
        return Asked(prompt=f"prompt {row}", references=(f"right {row}",))

    def batch(self, rows: np.ndarray) -> Batch:
        raise NotImplementedError

    def losses(self, batch: Batch) -> torch.Tensor:
        raise NotImplementedError


def scoring(*splits: Mapping[str, Counted], reported: list[Any] | None = None, **order: Any) -> Scoring:
    answered: list[int] = []

    @contextmanager
    def answering(task: int) -> Iterator[None]:
        answered.append(task)
        yield

    given = Order(1, 1, "", (), (), "", {}, zero_shot=False, validation=(), test=(), **order)
    made = Scoring(
        order=given, tasks=[(f"t{number}", each) for number, each in enumerate(splits)],
        train=TrainConfig(eval_batch_size=4, seed=5), answering=answering,
        report=(reported if reported is not None else []).append,
    )  # fmt: skip
    made.answered = answered  # type: ignore[attr-defined]
    return made


def test_all_rows_of_the_tasks_that_are_asked_for() -> None:
    splits, reported = [{"test": Counted(7)} for _ in range(4)], list[Any]()
    found = scoring(*splits, reported=reported)
    assert found.scores("test", [1, 2], 2) == [
        NOT_SCORED, *[Score(3.0, 7, {"first": 3 / 7, "row": 3.0})] * 2,
    ]  # fmt: skip
    assert [sorted(split["test"].judged) for split in splits] == [[], [*range(7)], [*range(7)], []]
    assert found.answered == [1, 2] and found.kept == []  # type: ignore[attr-defined]
    assert reported == [Progress(1, "evaluate test", 1, 2), Progress(1, "evaluate test", 2, 2)]
    assert found.scores("test", (), 2) == []


def test_few_rows_are_the_same_each_time() -> None:
    split = Counted(100)
    made = scoring({"test": split, "validation": Counted(100)}, rows=9)
    first = made.scores("test", [0], 1)
    rows = [*split.judged]
    assert made.scores("test", [0], 2) == first and first[0].rows == 9 == len({*rows})
    assert sorted(split.judged[9:]) == sorted(rows) == sorted(drawn(100, 9, 5).tolist())
    assert first[0].metrics["row"] == sum(rows) / 9
    assert sorted(rows) != [*range(9)] and {*drawn(100, 9, 5)} < {*drawn(100, 30, 5)} != {*drawn(100, 30, 6)}


def test_a_split_of_fewer_rows_is_scored_whole() -> None:
    assert scoring({"test": Counted(5)}, rows=9).scores("test", [0], 1)[0].rows == 5


@pytest.mark.parametrize(("rows", "keep", "kept"), [(None, 4, 4), (3, 4, 3), (None, 99, 20), (None, 0, 0)])
def test_answers_to_the_same_rows_are_kept(rows: int | None, keep: int, kept: int) -> None:
    made = scoring({"test": Counted(20), "validation": Counted(20)}, rows=rows, keep_answers=keep)
    for learned in (0, 1):
        made.scores("test", [0], learned)
        made.scores("validation", [0], learned)
    numbers = drawn(20, rows, 5)[:keep].tolist()
    assert len(numbers) == kept
    assert made.kept == [
        KeptAnswer(
            task="t0", row=row, learned=learned, prompt=f"prompt {row}", references=(f"right {row}",),
            answer=f"answer {row}", metrics={"first": float(row % 3 == 0), "row": float(row)},
        )
        for learned in (0, 1)
        for row in numbers
    ]  # fmt: skip


def test_an_objective_without_texts_keeps_none() -> None:
    made = scoring({"test": Counted(6, generates=False)}, keep_answers=3)
    assert made.scores("test", [0], 1)[0].rows == 6 and made.kept == []
