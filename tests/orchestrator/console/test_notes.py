"""What stands out in a run: nothing learned, budgets that nothing bounded."""

from typing import Any

import pytest

from orchestrator.console.notes import full_budgets, learned_nothing, notes
from tests.orchestrator.conftest import config_of

FILES = {"prefix": "p", "manifest_sha256": "0" * 64, "stored_bytes": 1}
FULL = {"a.dense": {"rank": 4, "max_rank": 4, "tau": 0.1}, "b.dense": {"rank": 4, "max_rank": 4, "tau": -0.2}}


def with_floor(run: Any, *floors: float) -> None:
    names = "abc"[: len(floors)]
    run.open(
        names,
        [
            {"name": name, "labels": ["x", "y"], "rows": {"train": 9, "validation": 10, "test": 20},
             "floors": {"rows": 20, "scores": {"majority": floor}}}
            for name, floor in zip(names, floors, strict=True)
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("score", "untrained", "floor", "told"),
    [
        (0.5, 0.25, 0.25, None), (0.5, 0.5, 0.25, "50.00 points untrained and 25.00 points without a model"),
        (0.5, 0.25, 0.6, "25.00 points untrained and 60.00 points without a model"), (1.0, 1.0, 0.5, None),
    ],
)  # fmt: skip
def test_a_task_that_learned_nothing(
    fake_run: Any, score: float, untrained: float, floor: float, told: str | None
) -> None:
    run = fake_run("a")
    with_floor(run, floor)
    run.commit([score], zero_shot=[untrained])
    found = [*learned_nothing(run.state)]
    assert found == [] if told is None else len(found) == 1 and told in found[0] and "task a: nothing" in found[0]


def test_its_own_training_counts(fake_run: Any) -> None:
    """Not what was forgotten later, and not tasks that come later."""
    run = fake_run("a", "b")
    run.commit([0.75, 0.5], zero_shot=[0.5, 0.5])
    run.commit([0.25, 0.75])
    assert notes(run.state) == []


@pytest.mark.parametrize(("nll", "count"), [(3.0, 1), (2.5, 0)])
def test_a_loss_that_did_not_fall(fake_run: Any, nll: float, count: int) -> None:
    run = fake_run("a")
    scored = {
        key: [{"correct": None, "rows": 4, "metrics": {"nll": value}}]
        for key, value in (("test", nll), ("zero_shot", 3.0))
    }
    run.append("commit", {"task": "a", "index": 0, **scored, **FILES, "version": 1})
    found = [*learned_nothing(run.state)]
    assert len(found) == count and all("nll 3.000 on its test rows, 3.000 untrained" in each for each in found)


@pytest.mark.parametrize(
    ("adapter", "full", "told"),
    [
        ({}, [False], None),
        ({"threshold": 0.3}, [True, False], "in a: τ went from 0.300 to 0.150 on average, so the loss asked for every"),
        ({"threshold": 0.1}, [True], "in every task: τ went from 0.100 to 0.150 on average, and no |g| fell below it"),
        ({"threshold": 0.0}, [True, True], "in every task: adapter.threshold 0 stays 0"),
        ({"min_rank": 4}, [True], "in every task: adapter.min_rank 4 keeps all"),
    ],
)
def test_full_budgets(fake_run: Any, adapter: dict[str, Any], full: list[bool], told: str | None) -> None:
    names = "abc"[: len(full)]
    config = config_of(names, adapter={"target_modules": ["dense"], "max_rank": 4, **adapter})
    run = fake_run(*names, config=config)
    for index, each in enumerate(full):
        budget = FULL if each else {**FULL, "b.dense": {**FULL["b.dense"], "rank": 3}}
        run.append("commit", {"task": names[index], "index": index, "budget": budget, **FILES, "version": index + 1})
    found = [*full_budgets(run.state)]
    assert found == [] if told is None else len(found) == 1 and told in found[0]


def test_other_methods_have_no_budget_to_keep(fake_run: Any) -> None:
    config = config_of("a", adapter={"method": "lora", "rank": 4, "target_modules": ["dense"]})
    run = fake_run("a", config=config)
    run.append("commit", {"task": "a", "index": 0, "budget": FULL, **FILES, "version": 1})
    assert [*full_budgets(run.state)] == []
