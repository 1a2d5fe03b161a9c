"""How long a run may take, by what earlier ones took per row."""

from typing import Any

import pytest

from orchestrator.run.evaluation import Size, cost
from orchestrator.run.reckoning import Reckoned, Speed, reckon, reckoned, speeds_of
from tests.orchestrator.conftest import config_of

# A FakeRun's task: 40 rows in 3 epochs, 1.5 s of training and 0.5 s for 10 + 20 rows of each of 2 tasks, on 2 workers
TRAIN_S, EVALUATE_S = 2 * 1.5 / 120, 2 * 0.5 / 60


def left(config: Any, since: int = 0, tasks: int = 2) -> Any:
    return cost(config, [Size(train=40, validation=10, test=20, generated=0)] * tasks, since)


def test_speeds(fake_run: Any) -> None:
    run = fake_run("a", "b")
    run.commit([0.5, 0.5])
    assert [*speeds_of(run.state)] == [pytest.approx(Speed(TRAIN_S, EVALUATE_S))]


def test_the_run_itself_tells_first(fake_run: Any) -> None:
    fake_run("a", "b", name="other").commit([0.5, 0.5])
    run = fake_run("a", "b")
    run.commit([0.5, 0.5])
    found = reckon(run.config, left(run.config, 1), run.track.store, run.state)
    assert found is not None and (found.tasks, found.runs) == (1, ["default/stream"])
    # task 2 of 2: 120 trained rows, and 10 + 20 rows of both tasks, on two workers
    assert found.seconds == pytest.approx((120 * TRAIN_S + 60 * EVALUATE_S) / 2) == pytest.approx(2.0)
    assert (found.gpu_hours, found.money) == (0.0, None)


def test_runs_of_the_same_base_tell(fake_run: Any) -> None:
    run = fake_run("a", "b")
    other = fake_run("a", "b", name="other", config=config_of("ab", model={"max_length": 64}))
    other.commit([0.5, 0.5])
    assert reckon(run.config, left(run.config), run.track.store, run.state) is None
    alike = fake_run("a", "b", name="slower", config=config_of("ab", train={"epochs": 1}))
    alike.commit([0.5, 0.5])
    broken = fake_run("a", name="broken")
    (broken.root / "t/default/broken/log").joinpath(f"{10**9 - 9:010d}.json").write_bytes(b"{}")
    found = reckon(run.config, left(run.config), run.track.store, run.state)
    assert found is not None and found.runs == ["default/slower"]
    per_row = 2 * 1.5 / 40
    assert found.seconds == pytest.approx((240 * per_row + (60 + 60 + 40) * EVALUATE_S) / 2)


def test_spread_and_price() -> None:
    config = config_of("a", cluster={"use_gpu": True, "num_workers": 4}, cost={"gpu_hour": 3.0, "currency": "EUR"})
    speeds = [Speed(10.0, 1.0), Speed(20.0, None), Speed(60.0, 3.0)]
    work: Any = {"trained_rows": 720, "rows": 1800}
    found = reckoned(config, work, {"t/a": speeds})
    assert found == Reckoned(
        seconds=4500.0, least_s=2700.0, most_s=11700.0, tasks=3, runs=["t/a"], gpu_hours=5.0, money=15.0, currency="EUR"
    )


def test_nothing_is_left(fake_run: Any) -> None:
    run = fake_run("a")
    run.commit([0.5])
    assert reckon(run.config, left(run.config, 1, 1), run.track.store, run.state) is None
