"""Which splits an order has scored, on which rows, and which answers are kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cluster.storage import open_store
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.data.answers import ANSWERS, Asked, KeptAnswer, read_answers
from trainers.data.batching import drawn
from trainers.data.collate import Batch
from trainers.data.row_scores import ROWS, read_row_scores
from trainers.messages import NOT_SCORED, Job, Order, Progress, Score
from trainers.method_config import AdapterConfig
from trainers.methods.base import Artifact, Summary
from trainers.objectives.base import Judged
from trainers.workers.scoring import Scoring
from trainers.workers.worker import Worker

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
            [9 if row % 2 else None for row in rows] if self.generates else (),
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
    first, *scored = found.scores("test", [1, 2], 2)
    assert first == NOT_SCORED
    assert [replace(each, interval=None) for each in scored] == [Score(3.0, 7, {"first": 3 / 7, "row": 3.0})] * 2
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
            cut=9 if row % 2 else None,
        )
        for learned in (0, 1)
        for row in numbers
    ]  # fmt: skip


def test_an_objective_without_texts_keeps_none() -> None:
    made = scoring({"test": Counted(6, generates=False)}, keep_answers=3)
    assert made.scores("test", [0], 1)[0].rows == 6 and made.kept == []


class Labelled(Counted):
    """The same, over two labels: even rows have label 0, and every row is answered with it."""

    def judge(self, rows: np.ndarray, at_once: int) -> Judged:
        right = torch.tensor(rows % 2)
        return Judged((right == 0).unsqueeze(1), labels=(torch.zeros_like(right), right))

    def score(self, totals: np.ndarray, rows: int) -> Score:
        return Score(int(totals[0]), rows)


def test_macro_f1_if_it_is_asked_for() -> None:
    split = Labelled(6, generates=False)
    assert scoring({"test": split}).scores("test", [0], 1) == [Score(3, 6)]
    (asked,) = scoring({"test": split}, macro_f1=True).scores("test", [0], 1)
    assert asked == Score(3, 6, macro_f1=pytest.approx((2 * 3 / (6 + 3) + 0) / 2))
    (texts,) = scoring({"test": Counted(6)}, macro_f1=True).scores("test", [0], 1)
    assert texts.macro_f1 is None


# --- what a worker makes of it


def worker(store: Path, *, generates: bool = True) -> Worker:
    """One that learns nothing, over two tasks: its artifacts are two files of a byte each."""
    store.mkdir(exist_ok=True)
    files = dict.fromkeys(("adapter.safetensors", "bases.safetensors"), b"a")
    trained = SimpleNamespace(
        artifact=Artifact(files, Summary(budget={}, active_parameters=1)),
        log=SimpleNamespace(write=lambda path: path.write_bytes(b"l"), last={}, with_course=lambda _: {}),
        course=None,
        tokens=0,
        parameters=0,
    )
    made: Any = object.__new__(Worker)
    made.job = Job(
        "t/x", ModelConfig(), AdapterConfig(target_modules=["a"]), TrainConfig(eval_batch_size=4), DeepSpeedConfig(),
        str(store), (),
    )  # fmt: skip
    made.rank, made.world_size, made.held, made.report = 0, 1, [], lambda _: None
    made.base_parameters = 0
    made.names = ["a", "b"]
    made.splits = [{key: Counted(9, generates=generates) for key in ("validation", "test")} for _ in made.names]
    made.backbone = SimpleNamespace(digest="d", tokenizer_digests={}, settings={})
    made.method = SimpleNamespace(
        extend=lambda _: None, kept=lambda: None, capacity=dict, answering=lambda _: nullcontext()
    )
    made.training = lambda _: SimpleNamespace(run=lambda: trained)
    found: Worker = made
    return found


ASKED = Order(
    0, 1, "v", (), (), "c", {}, zero_shot=True, validation=range(2), test=range(2), rows=6, keep_answers=2
)  # fmt: skip


def test_answers_lie_beside_the_files_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the untrained model and of the one that has learned the task; what the history is known by is as without."""
    monkeypatch.chdir(tmp_path)
    made = worker(tmp_path / "store")
    done = made.run(ASKED)
    assert [record.path for record in done.files] == [
        "adapter.safetensors", "bases.safetensors", "training.parquet", ANSWERS,
    ]  # fmt: skip
    data = open_store(str(tmp_path / "store")).get(f"{done.prefix}/{ANSWERS}")
    done.files[-1].check(ANSWERS, len(data), done.files[-1].sha256)
    kept = drawn(9, 6, 0)[:2].tolist()
    assert [(each.task, each.learned, each.row) for each in read_answers(data)] == [
        (task, learned, row) for learned in (0, 1) for task in ("a", "b") for row in kept
    ]
    assert [score.rows for score in (*done.test, *done.validation, *(done.zero_shot or ()))] == [6] * 6
    plain = worker(tmp_path / "plain")
    plain.run(replace(ASKED, keep_answers=0))
    assert made.held == plain.held


@pytest.mark.parametrize("case", ["asked for none", "no texts", "another rank"])
def test_no_file_without_answers(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = worker(tmp_path / "store", generates=case != "no texts")
    made.rank = int(case == "another rank")
    done = made.run(replace(ASKED, keep_answers=0) if case == "asked for none" else ASKED)
    assert ANSWERS not in [record.path for record in done.files]
    assert not [*tmp_path.rglob(ANSWERS)] and [path.name for path in tmp_path.iterdir()] in ([], ["store"])


# --- scores of single rows


@pytest.mark.parametrize("rows", [None, 4])
def test_scores_of_the_rows_that_were_scored(rows: int | None) -> None:
    made = scoring({"test": Counted(9), "validation": Counted(5)}, rows=rows, keep_rows=True)
    made.scores("test", [0], 1)
    made.scores("validation", [0], 2)
    assert [(each.task, each.split, each.learned) for each in made.rows] == [("t0", "test", 1), ("t0", "validation", 2)]
    for each, size in zip(made.rows, (9, 5), strict=True):
        assert each.rows.tolist() == sorted(drawn(size, rows, 5).tolist())
        assert each.values.tolist() == [float(row % 3 == 0) for row in each.rows]
    assert scoring({"test": Counted(9)}).scores("test", [0], 1) and not scoring({"test": Counted(9)}).rows


def test_rows_lie_beside_the_files_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = worker(tmp_path / "store", generates=False).run(replace(ASKED, keep_rows=True))
    assert [record.path for record in done.files][3:] == [ROWS]
    found = read_row_scores(open_store(str(tmp_path / "store")).get(f"{done.prefix}/{ROWS}"))
    assert [(each.task, each.split, each.learned, len(each.values)) for each in found] == [
        *((task, "test", 0, 6) for task in "ab"),
        *((task, split, 1, 6) for split in ("validation", "test") for task in "ab"),
    ]
