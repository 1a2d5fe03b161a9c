"""Seconds, GPU-hours and money of a run."""

from typing import Any

import pytest

from orchestrator.track.events import Cost
from orchestrator.track.spending import spent, training_flops
from tests.orchestrator.conftest import config_of

FILES = {"manifest_sha256": "0" * 64, "stored_bytes": 1}


def run_of(fake_run: Any, **sections: Any) -> Any:
    run = fake_run("a", "b", config=config_of("ab", **sections))
    for index in (0, 1):
        cost = {"train_s": 1800 * (index + 1), "evaluate_s": 900, "workers": 2}
        body = {"version": index + 1, "index": index, "task": "ab"[index], "prefix": f"p{index}", "cost": cost, **FILES}
        run.append("commit", body)
    return run


def test_gpus_and_their_price(fake_run: Any) -> None:
    cluster = {"use_gpu": True, "gpus_per_worker": 2}
    found = spent(run_of(fake_run, cluster=cluster, cost={"gpu_hour": 2.5}).state)
    assert found is not None and (found.train_s, found.evaluate_s) == (5400.0, 1800.0)
    assert found.gpu_hours == pytest.approx(8.0)  # 2 h of clock, 2 workers, 2 GPUs each
    assert found.money == pytest.approx(20.0) and found.shown()["currency"] == "USD"


def test_a_task_on_other_workers(fake_run: Any) -> None:
    run = run_of(fake_run, cluster={"use_gpu": True})
    config = run.config.model_dump(mode="json")
    config["tasks"][1]["resources"] = {"use_gpu": False}
    run.append("open", {"config": config, "tasks": [each.body() for each in run.state.tasks]})
    found = spent(run.state)
    assert found is not None and found.gpu_hours == pytest.approx(2 * 2700 / 3600) and found.money is None


def test_without_gpus_or_a_configuration(fake_run: Any) -> None:
    found = spent(run_of(fake_run, cost={"gpu_hour": 2.5, "currency": "EUR"}).state)
    assert found is not None and (found.gpu_hours, found.money) == (0.0, None)
    run = fake_run("a", name="other")
    assert spent(run.state) is None
    run.append("open", {"config": {}, "tasks": [{"name": "a"}]})
    cost = {"train_s": 2.0, "workers": 1}
    run.append("commit", {"version": 1, "index": 0, "task": "a", "prefix": "p", "cost": cost, **FILES})
    found = spent(run.state)
    assert found is not None and (found.train_s, found.gpu_hours) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("sections", "per_token"),
    [
        ({}, 4 * 1000 + 6 * 10),  # forwards and back through the base, all three products beside it
        ({"train": {"gradient_checkpointing": True}}, 6 * 1000 + 6 * 10),  # forwards twice
        ({"adapter": {"method": "full", "target_modules": "all"}}, 4 * 1000 + 2 * 10),  # gradients of its own weights
    ],
)
def test_operations_of_training(sections: dict[str, Any], per_token: int) -> None:
    counts = {"tokens": 50, "base_parameters": 1000, "trained_parameters": 10}
    config = config_of("ab", **sections)
    assert training_flops(config, Cost(train_s=1.0, **counts)) == 50 * per_token
    assert training_flops(config, Cost(train_s=1.0)) is None


def test_all_trained_is_six_per_parameter_and_token() -> None:
    counts = {"tokens": 7, "base_parameters": 1000, "trained_parameters": 1000}
    full = config_of("ab", adapter={"method": "full", "target_modules": "all"})
    assert training_flops(full, Cost(train_s=1.0, **counts)) == 6 * 1000 * 7  # Kaplan et al.


def test_operations_beside_a_third_of_the_base_s(fake_run: Any) -> None:
    run = fake_run("a", "b", config=config_of("ab", cost={"base_flops": 6e6}))
    counts = {"tokens": 500, "base_parameters": 990, "trained_parameters": 10}
    for index in (0, 1):
        cost = {"train_s": 1.0, "workers": 1, **counts}
        body = {"version": index + 1, "index": index, "task": "ab"[index], "prefix": f"p{index}", "cost": cost, **FILES}
        run.append("commit", body)
    found = spent(run.state)
    assert (
        found is not None and found.flops == 2 * 500 * (4 * 990 + 6 * 10) and found.share == pytest.approx(4.02e6 / 2e6)
    )
    assert (found.money, found.currency) == (None, None)
