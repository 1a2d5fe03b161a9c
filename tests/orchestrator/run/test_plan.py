"""The memory that a plan reckons with, term by term; the rest of a plan is tested through `orthoplex plan`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.run.plan import PROCESS_BYTES, held_back, planned, rounding_of, worker_memory
from orchestrator.track.events import Floors, RowCounts, TaskDescription
from tests.support.entries import COMMIT
from tests.support.fake_workers import run_config
from trainers.config import OwnTraining
from trainers.methods.base import Footprint
from trainers.models.capabilities import Shape
from trainers.models.preview import Example, Lengths

MODEL = Shape(width=8, layers=3, heads=4, positions=10)
COST = Footprint(trained=100, kept=60, copies_weights=True, history_bytes=77)


def memory(cost: Footprint = COST, **sections: Any) -> dict[str, int]:
    sections = {"model": {"max_length": 16}, "train": {"batch_size": 12}, **sections}
    return worker_memory(run_config(Path("store"), "a", **sections), MODEL, 1000, cost)


def test_every_cause() -> None:
    # 12 rows over 2 workers, length min(16, 10), B·S·L·(34·D + 5·H·S) bytes at two bytes a value, twice for float32
    assert memory() == {
        "process": PROCESS_BYTES,
        "weights": 4000,
        "originals": 4000,
        "adapter": 100 * (4 + 4 // 2 + 8 // 2),  # ZeRO 2: gradients and moments are shared by the 2 workers
        "activations": 6 * 10 * 3 * (34 * 8 + 5 * 4 * 10) * 2,
        "bases": 77,
    }


@pytest.mark.parametrize(("stage", "weights", "adapter"), [(0, 4000, 16), (1, 4000, 12), (2, 4000, 10), (3, 2000, 8)])
def test_what_workers_share(stage: int, weights: int, adapter: int) -> None:
    found = memory(deepspeed={"zero_stage": stage})
    assert (found["weights"], found["adapter"]) == (weights, adapter * 100)


def test_bfloat16_halves_and_checkpointing_keeps_one_layer() -> None:
    half = memory(model={"max_length": 16, "dtype": "bfloat16"})
    assert (half["weights"], half["activations"]) == (2000, memory()["activations"] // 2)
    kept = memory(train={"batch_size": 12, "gradient_checkpointing": True})["activations"]
    assert kept == 6 * 10 * (2 * 8 * 2 + 34 * 8 + 5 * 4 * 10) * 2


def test_the_task_that_needs_most() -> None:
    """A task's own batch size and length, in `memory` the first of two: 2 · 10 rows over 2 workers, 5 tokens."""
    config = run_config(Path("store"), "ab", model={"max_length": 16}, train={"batch_size": 12})
    own = config.tasks[0].model_copy(update={"training": OwnTraining(batch_size=40), "max_length": 5})
    found = worker_memory(config.model_copy(update={"tasks": (own, config.tasks[1])}), MODEL, 1000, COST)
    assert found["activations"] == max(20 * 5 * 3 * (34 * 8 + 5 * 4 * 5), 6 * 10 * 3 * (34 * 8 + 5 * 4 * 10)) * 2


def test_layers_in_float32_over_a_bfloat16_base() -> None:
    """Two bytes more for each of 300 weights, shared under ZeRO 3; what is copied is in the base's dtype."""
    some = replace(COST, float32_weights=300)
    for stage, workers in ((2, 1), (3, 2)):
        found = memory(some, model={"dtype": "bfloat16"}, deepspeed={"zero_stage": stage})
        assert (found["weights"], found["originals"]) == (2600 // workers, 2000 // workers)
    assert memory(some) == memory()


def test_a_method_that_copies_nothing() -> None:
    assert memory(Footprint(trained=100, kept=60, copies_weights=False, history_bytes=0))["originals"] == 0


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({}, "adapter.rounding nearest: what is less than half a step of a weight is lost"),
        ({"rounding": "stochastic"}, "adapter.rounding stochastic: their change is kept on average"),
        ({"rounding": "none"}, None),
        ({"history": "concatenated"}, None),
        ({"method": "lora", "rank": 4}, None),
    ],
)
def test_rounding_is_told_of_if_tasks_are_folded_into_narrow_weights(adapter: dict[str, Any], said: str | None) -> None:
    sections = {"adapter": {"target_modules": ["dense"], **adapter}, "deepspeed": {"zero_stage": 2}}
    found = rounding_of(run_config(Path("store"), "a", model={"dtype": "bfloat16"}, **sections))
    assert (said in found) if said and found else found == said
    assert rounding_of(run_config(Path("store"), "a", **sections)) is None


def test_what_is_quarantined_is_noted(fake_run: Any) -> None:
    run = fake_run("a")
    assert held_back(run.state) == []
    run.append("quarantine", {**COMMIT, "identity": "i"})
    assert held_back(run.state)[0].startswith("v1, a, is quarantined: `run` commits it")


def test_a_task_as_it_is_shown() -> None:
    rows = RowCounts(train=3, validation=1, test=2)
    task = TaskDescription(name="a", labels=("x", "y"), fingerprint="f", rows=rows, warnings=("w",))
    few = Lengths(rows=6, measured=6, p50=3, p95=9, max=9, cut=0, max_length=16)
    row = Example(text="b", tokens=["b"], ids=[1], label="x", answer_tokens=[])
    shown = {"name": "a", "labels": ["x", "y"], "fingerprint": "f", "warnings": ["w"]}
    shown["rows"] = {"train": 3, "validation": 1, "test": 2}
    shown |= {"tokens": asdict(few), "example": asdict(row), "floors": None, "answers": None}
    assert planned(task, True, few, row) == {**shown, "state": "done"}
    assert planned(task, False, few, row)["state"] == "pending"
    floors = Floors(rows=2, scores={"majority": 0.5})
    with_floors = planned(task.model_copy(update={"floors": floors}), False, few, row)
    assert with_floors["floors"] == {"rows": 2, "scores": {"majority": 0.5}}
    assert planned(task, False, replace(few, cut=1), row)["warnings"] == [
        "w",
        "task a: 16.7% of its rows (1 of 6) are longer than max_length 16 and are cut; "
        "raise model.max_length or the task's own, or shorten the texts",
    ]
