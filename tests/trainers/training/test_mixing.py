"""Rows of other tasks that a task is trained on: which ones, and what a real worker makes of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from orchestrator.run.controller import Controller
from orchestrator.track.view import status_view
from tests.support import mixing_pair
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray
from tests.support.ranks_pair import folder_of
from trainers.config import ReplayConfig, TrainConfig
from trainers.data.prompts import Prompt
from trainers.messages import Order, TaskDone, TaskRows
from trainers.training.mixing import counts, mixed_in, own_and_mixed
from trainers.training.stage import Leaving, TaskTraining
from trainers.workers.worker import Worker

SIZES = (40, 10, 200, 30)


@dataclass
class Rows:
    """A split of which the number of rows is known; it keeps what it is put together with."""

    size: int
    joined: list[Any] = field(default_factory=list)

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(self.size)

    def with_rows(self, others: Sequence[Any]) -> "Rows":
        return Rows(self.size + sum(len(rows) for _, rows in others), [*others])


TASKS: Any = [{"train": Rows(size)} for size in SIZES]


def as_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What DeepSpeed reads."""
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}.items():
        monkeypatch.setenv(key, value)


def replaying(share: float, seed: int = 0) -> TrainConfig:
    return TrainConfig(replay=ReplayConfig(share=share), seed=seed)


def test_a_share_of_each_earlier_task_and_the_same_rows_each_time() -> None:
    found = mixed_in(TASKS, 3, replaying(0.1))
    assert [split for split, _ in found] == [each["train"] for each in TASKS[:3]]
    assert [len(rows) for _, rows in found] == [4, 1, 20] == [replaying(0.1).replay.rows(size) for size in SIZES[:3]]
    for size, (_, rows) in zip(SIZES, found, strict=False):
        assert rows.tolist() == sorted({*rows.tolist()}) and rows.max() < size
    for mine, before in zip(found, mixed_in(TASKS, 2, replaying(0.1)), strict=False):
        np.testing.assert_array_equal(mine[1], before[1])
    assert mixed_in(TASKS, 3, replaying(0.1, seed=1))[2][1].tolist() != found[2][1].tolist()
    assert {*found[2][1].tolist()} < {*mixed_in(TASKS, 3, replaying(0.2))[2][1].tolist()}
    assert [len(rows) for _, rows in mixed_in(TASKS, 3, replaying(1e-9))] == [1, 1, 1]
    assert mixed_in(TASKS, 0, replaying(0.5)) == [] == mixed_in(TASKS, 3, TrainConfig())


def test_all_rows_of_all_tasks() -> None:
    own, mixed = own_and_mixed(TASKS, 3, TrainConfig(joint=True))
    assert mixed == [] and own.lengths.shape == (sum(SIZES),)
    assert [rows.tolist() for _, rows in own.joined] == [[*range(size)] for size in SIZES[:3]]  # type: ignore[attr-defined]
    assert own_and_mixed(TASKS, 3, TrainConfig()) == (TASKS[3]["train"], [])
    own, mixed = own_and_mixed(TASKS, 2, replaying(0.1))
    assert own is TASKS[2]["train"] and len(mixed) == 2, "what protects the past reads the task's own rows alone"


def test_what_the_commit_says() -> None:
    names = [*"abcd"]
    assert counts(names, TASKS, 2, replaying(0.1)) == {"a": 4, "b": 1, "c": 200}
    assert counts(names, TASKS, 3, TrainConfig(joint=True)) == dict(zip(names, SIZES, strict=True))
    assert counts(names, TASKS, 0, replaying(0.1)) == {} == counts(names, TASKS, 3, TrainConfig())


# --- two ranks


@pytest.fixture(scope="module")
def two(two_ranks: Path) -> Path:
    return folder_of(two_ranks, mixing_pair)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*mixing_pair.CASES])
def test_two_ranks_train_and_score_as_one(
    case: str, two: Path, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows of the same tasks, in one pass each: under ZeRO 3, ranks with unequal passes would hang."""
    as_one_process(monkeypatch)
    files, told = mixing_pair.streamed(two, case)
    assert json.loads((two / f"{case}.json").read_text()) == told
    assert told[-1]["rows"] == ({"first": 24, "second": 24} if len(told) == 1 else {"first": 5, "second": 24})
    for index, data in enumerate(files):
        alone, of_two = load(data), load_file(two / f"{case}-{index}.safetensors")
        assert alone.keys() == of_two.keys() and max(map(torch.numel, alone.values())) > 0
        for name, values in alone.items():
            torch.testing.assert_close(of_two[name], values, rtol=1e-3, atol=1e-5)


# --- a real worker: tasks with different labels, in one process

WORDS = {"colour": ("red", "blue"), "animal": ("cat", "dog", "horse"), "size": ("large", "small")}


def rows_of(name: str, count: int) -> tuple[list[str], list[int]]:
    words = WORDS[name]
    return [f"this {name} is {words[i % len(words)]}, row {i}" for i in range(count)], [
        i % len(words) for i in range(count)
    ]


REAL = [
    TaskRows(
        name, words, {split: rows_of(name, n) for split, n in (("train", 12), ("validation", 3), ("test", 6))}, Prompt()
    )
    for name, words in WORDS.items()
]


@dataclass
class OneWorker(FakeWorkers):
    """Trains small tasks with one real worker, in this process, and keeps its training stages."""

    worker: Worker | None = None
    stages: list[TaskTraining] = field(default_factory=list)

    def train(self, order: Order, on_event: Callable[[Any], None]) -> TaskDone:
        on_event(None)
        self.orders.append(order)
        if self.worker is None:
            self.worker = Worker(replace(self.jobs[-1], tasks=tuple(REAL)), torch.device("cpu"), lambda _: None)
            make = self.worker.training
            self.worker.training = lambda order: self.stages.append(make(order)) or self.stages[-1]  # type: ignore
        self.worker.catch_up(order)
        return self.worker.run(order)


@pytest.fixture
def alone(
    one_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Controller, OneWorker]]:
    """Runs the tasks with these settings of `train`."""
    without_ray(monkeypatch)
    as_one_process(monkeypatch)

    def run(name: str, adapter: dict[str, Any] | None = None, **train: Any) -> tuple[Controller, OneWorker]:
        layers = ["encoder.layer.5.output.dense"]
        config = run_config(
            tmp_path, [*WORDS], name=name, model={"max_length": 16},
            adapter={"target_modules": layers, "max_rank": 2, **(adapter or {})},
            train={"epochs": 1, "batch_size": 4, "warmup_steps": 0, **train}, deepspeed={"zero_stage": 0},
            evaluate={"labels": "both", "tasks": "seen", "keep_rows": True},
        )  # fmt: skip
        workers = OneWorker(config)
        controller = Controller(config, Told(), workers=workers)
        controller.run()
        return controller, workers

    return run


@pytest.mark.slow
def test_a_run_with_replay(alone: Any) -> None:
    """Rows, steps and log; what protects the past reads the task's own rows."""
    controller, workers = alone("replay", {"orthogonality": {"side": "both"}}, replay={"share": 0.25})
    commits = controller.state.commits
    assert [commit.trained_rows for commit in commits] == [
        {}, {"colour": 3, "animal": 12}, {"colour": 3, "animal": 3, "size": 12},
    ]  # fmt: skip
    assert [stage.steps for stage in workers.stages] == [3, 4, 5]
    assert [len(stage.split.terms) for stage in workers.stages] == [12] * 3
    seen = np.sort(np.concatenate([*workers.stages[2].batches()]))
    np.testing.assert_array_equal(seen, np.arange(18))
    replayed = [workers.stages[2].rows.token_ids[i] for i in range(12, 15)]  # type: ignore[attr-defined]
    every = [workers.worker.splits[0]["train"].token_ids[i] for i in range(12)]  # type: ignore[union-attr]
    assert all(row in every for row in replayed)
    union = controller.state.commits[2].union
    assert [score.rows for score in union] == [6, 6, 6]
    assert all(all_.correct <= own.correct for all_, own in zip(union, commits[2].test, strict=True))  # type: ignore


@pytest.mark.slow
def test_a_joint_run_is_one_training_on_all_rows(alone: Any) -> None:
    controller, workers = alone("joint", {"orthogonality": {"side": "both"}}, joint=True, epochs=6, learning_rate=5e-3)
    (commit,) = controller.state.commits
    assert (commit.version, commit.task, commit.index) == (3, "joint", 2)
    assert commit.trained_rows == dict.fromkeys(WORDS, 12) and len(workers.stages) == 1
    assert workers.stages[0].steps == 6 * 9 and len(workers.stages[0].split.terms) == 36
    view: Any = status_view(controller.state)
    assert view["matrix"][:2] == [[None] * 3] * 2 and None not in view["matrix"][2]
    assert view["metrics"]["aa"] == pytest.approx(np.mean(view["matrix"][2])) and view["metrics"]["aa"] > 0.8
    assert [view["metrics"][key] for key in ("bwt", "forgetting", "fwt")] == [None] * 3
    assert view["metrics"]["learning_accuracy"] == view["metrics"]["aa"]


def test_a_task_with_replay_is_resumed_bit_by_bit(alone: Any) -> None:
    """From a checkpoint in the middle of the second task; steps are equal by max_steps."""
    whole, workers = alone("whole", replay={"share": 0.25}, checkpoint_steps=2, logging_steps=2, max_steps=3)
    assert [stage.steps for stage in workers.stages] == [3, 3, 3]
    stage = workers.stages[1]
    order = replace(workers.orders[1], checkpoint="c/resumed")
    worker: Any = workers.worker
    worker.forget(worker.job)
    worker.catch_up(order)
    cut = TaskTraining(
        worker.job, order, "animal", worker.backbone, worker.method, stage.split, stage.store, lambda _: None,
        leaving=lambda: True, mixed=stage.mixed,
    )  # fmt: skip
    with pytest.raises(Leaving):
        cut.run()
    resumed = replace(cut, leaving=lambda: False, log=type(cut.log)()).run()
    assert (
        resumed.artifact.files["adapter.safetensors"]
        == whole.track.committed(whole.state.commits[1], "adapter.safetensors")[0]
    )
