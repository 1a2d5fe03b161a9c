"""What a sweep may spend, and how its trials share what the cluster has: formulas written anew."""

import itertools
import time
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.resources import ClusterConfig
from orchestrator.sweeps import capacity as room
from orchestrator.sweeps.capacity import fixed_workers, gpu_hours, needed_bytes, session_cluster, sharing, slots, spent
from orchestrator.sweeps.config import SweepConfig
from tests.support.sweeps import row, state_of, sweep_of, trial

GIB = 1 << 30
GPU = {"use_gpu": True, "num_workers": 1}


def on(cluster: dict[str, Any], **sections: Any) -> SweepConfig:
    return sweep_of(run={"cluster": cluster}, **{"budget": {"hours": 1}, **sections})


# --- what was spent

STATE = state_of(
    trial(1, [row(1, 0.5, train_s=500, evaluate_s=100, gpus=4), row(2, 0.5, train_s=1000, evaluate_s=200, gpus=4)]),
    trial(2, [row(1, 0.5, train_s=300, evaluate_s=60, gpus=2)], "stopped"),
    trial(3, [], "failed"),
    trial(4, [], "running"),
)
LIVE = {4: [row(1, 0.5, train_s=30, evaluate_s=6, gpus=0.5)], 2: [row(1, 0.5, train_s=360, evaluate_s=0, gpus=2)]}


def test_gpu_hours_are_those_of_the_last_rows() -> None:
    assert gpu_hours(STATE, {}) == pytest.approx((1200 * 4 + 360 * 2) / 3600)
    assert gpu_hours(STATE, LIVE) == pytest.approx((1200 * 4 + 360 * 2 + 36 / 2) / 3600)  # what runs is counted once
    assert gpu_hours(state_of(), {}) == 0
    assert gpu_hours(state_of(trial(1, [row(4, 0.5, gpus=0.0)])), {}) == 0  # without GPUs


def test_trials_that_share_a_gpu_share_its_hours() -> None:
    """Four at once for an hour on one GPU are one GPU-hour."""
    hour = [trial(n, [row(1, 0.5, train_s=3000, evaluate_s=600, gpus=1 / 4)]) for n in range(1, 5)]
    assert gpu_hours(state_of(*hour), {}) == pytest.approx(1)


@pytest.mark.parametrize(("bound", "over"), [(1.53, True), (23 / 15, True), (1.54, False), (None, False)])
def test_the_budget_in_gpu_hours(bound: float | None, over: bool) -> None:
    budget = {"hours": 1} if bound is None else {"gpu_hours": bound}
    why = spent(on({"use_gpu": True, "num_workers": 2}, budget=budget), STATE, {})  # 5520 s of one GPU: 23/15 hours
    assert bool(why) == over
    if why:
        assert "1.53 GPU-hours" in why and f"budget.gpu_hours {bound:g}" in why


@pytest.mark.parametrize(("before_s", "over"), [(0, False), (3599, False), (3600, True), (9000, True)])
def test_the_budget_of_the_clock(monkeypatch: pytest.MonkeyPatch, before_s: float, over: bool) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 50_000.0 + before_s)
    why = spent(on({}, budget={"hours": 1}), STATE, {}, 50_000.0)
    assert why == ("the time is up (budget.hours 1)" if over else None)
    assert spent(on({}, budget={"hours": 1}), STATE, {}) is None  # nothing has begun
    assert spent(on({}, budget={"trials": 1}), STATE, {}, 0.0) is None  # that one is the searcher's


# --- how many at once


@pytest.mark.parametrize(
    ("cluster", "resources"),
    itertools.product(
        [
            {"num_workers": 1}, {"num_workers": 2}, {"num_workers": 2, "cpus_per_worker": 3}, GPU,
            {"use_gpu": True, "num_workers": 2}, {**GPU, "gpus_per_worker": 0.25},
            {**GPU, "gpus_per_worker": 1 / 3}, {**GPU, "gpus_per_worker": 1 / 7, "cpus_per_worker": 2},
        ],
        [{"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 16.0, "GPU": 1.0}, {"CPU": 64.0, "GPU": 8.0}],
    ),
)  # fmt: skip
def test_as_many_as_fit(cluster: dict[str, Any], resources: dict[str, float]) -> None:
    """In thirds, quarters and sevenths of a GPU, counted in whole shares."""
    asked = ClusterConfig.model_validate(cluster)
    workers = asked.num_workers.max
    fit = int(resources["CPU"]) // (asked.cpus_per_worker * workers)
    if asked.use_gpu:
        gpus = int(resources.get("GPU", 0))
        per_gpu = round(1 / asked.gpus_per_worker) if asked.gpus_per_worker <= 1 else 1
        fit = min(fit, gpus * per_gpu // workers)
    assert slots(on(cluster), resources) == max(1, fit)


@pytest.mark.parametrize(
    ("concurrent", "trials", "expected"), [(None, None, 8), (3, None, 3), (None, 5, 5), (12, None, 12), (3, 2, 2)]
)
def test_what_the_sweep_asks_for(concurrent: int | None, trials: int | None, expected: int) -> None:
    config = on({"num_workers": 1}, concurrent=concurrent, budget={"hours": 1, "trials": trials})
    assert slots(config, {"CPU": 8.0}) == expected


# --- how they share GPUs


def shared(monkeypatch: pytest.MonkeyPatch, gib: float, **sections: Any) -> float:
    """GPUs a worker where a trial needs 3.5 GiB, and CUDA half a GiB a process, on a GPU of so many GiB."""
    monkeypatch.setattr(room, "needed_bytes", lambda _: int(3.5 * GIB))
    found = sharing(on(GPU, **sections), lambda: int(gib * GIB))
    return found.run.cluster.gpus_per_worker


@pytest.mark.parametrize("gib", [0, 2, 4, 4.3, 8, 9, 16, 40, 80, 141])
def test_as_many_as_memory_holds(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    """⌊95% of the memory / 4 GiB⌋, at least one and at most eight."""
    expected = max(1, min(8, int(0.95 * gib / 4)))
    assert shared(monkeypatch, gib) == pytest.approx(1 / expected)


@pytest.mark.parametrize(
    ("sections", "most"),
    [({"budget": {"trials": 3}}, 3), ({"concurrent": 2}, 2), ({"concurrent": 2, "budget": {"trials": 1}}, 1), ({}, 8)],
)
def test_never_more_than_there_are(monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], most: int) -> None:
    assert shared(monkeypatch, 141, **sections) == pytest.approx(1 / most)


def test_what_the_sweep_says_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared(monkeypatch, 1, trials_per_gpu=5) == pytest.approx(1 / 5)
    assert shared(monkeypatch, 141, trials_per_gpu=1) == 1


def test_a_gpu_that_cannot_be_asked_holds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "needed_bytes", lambda _: GIB)
    assert sharing(on(GPU), lambda: None).run.cluster.gpus_per_worker == 1


@pytest.mark.parametrize(
    "cluster",
    [
        {"num_workers": 2},
        {**GPU, "gpus_per_worker": 0.5},
        {**GPU, "gpus_per_worker": 2},
        {"use_gpu": True, "num_workers": 2},
    ],
)
def test_what_stays_as_it_is(cluster: dict[str, Any]) -> None:
    """Without GPUs, with a share that the run names, with workers that cannot share; no GPU is asked."""

    def never() -> int:
        raise AssertionError

    config = on(cluster)
    assert sharing(config, never) == config


def test_workers_of_one_trial_cannot_share_a_gpu() -> None:
    cluster = {"use_gpu": True, "num_workers": 2}
    with pytest.raises(ConfigError) as caught:
        sharing(on(cluster, trials_per_gpu=2), lambda: 0)
    assert "trials_per_gpu: 2" in str(caught.value) and "run.cluster.num_workers to 1" in str(caught.value)
    assert sharing(on(cluster, trials_per_gpu=1), lambda: 0) == on(cluster, trials_per_gpu=1)


@pytest.mark.parametrize("use_gpu", [False, True])
def test_a_number_of_workers_that_changes_is_refused(use_gpu: bool) -> None:
    config = on({"num_workers": {"min": 1, "max": 4}, "use_gpu": use_gpu})
    for call in (lambda: slots(config, {"CPU": 8.0, "GPU": 8.0}), lambda: session_cluster(config)):
        with pytest.raises(ConfigError, match=r"run\.cluster\.num_workers: 1 to 4: .* one number"):
            call()


def test_a_fixed_number_of_workers() -> None:
    assert fixed_workers(ClusterConfig.model_validate({"num_workers": {"min": 3, "max": 3}})) == 3


@pytest.mark.parametrize(("concurrent", "workers"), [(None, 2), (1, 2), (4, 8)])
def test_a_ray_of_its_own_has_cpus_for_all(concurrent: int | None, workers: int) -> None:
    found = session_cluster(on({"num_workers": 2, "cpus_per_worker": 3, "grace_s": 7}, concurrent=concurrent))
    assert (found.num_workers.max, found.cpus_per_worker, found.grace_s) == (workers, 3, 7)


# --- what one needs


def of_rank(rank: int | None = None, batch: int | None = None, space: Any = None) -> SweepConfig:
    adapter = {"target_modules": ["output.dense"], **({"max_rank": rank} if rank else {})}
    train = {"batch_size": batch} if batch else {}
    run = {"adapter": adapter, "train": train, "cluster": GPU, "model": {"max_length": 32}}
    return sweep_of(space or {"adapter.threshold": {"uniform": [0.1, 0.9]}}, run=run, budget={"hours": 1})


def test_the_largest_trial_counts() -> None:
    """Searched up to 64 is as much as 64 set; MiniLM has 12 such layers of width 384, and here four tasks."""
    space = {"adapter.max_rank": {"choice": [4, 64, 8]}, "train.batch_size": {"qrandint": [8, 64, 8]}}
    most, plain = needed_bytes(of_rank(space=space)), needed_bytes(of_rank(64, 64))
    assert most == plain
    assert needed_bytes(of_rank(space={"adapter.max_rank": {"randint": [4, 65]}}, batch=64)) == plain
    of_a_task = {**space, "tasks.1.training.batch_size": space["train.batch_size"]}
    del of_a_task["train.batch_size"]
    assert needed_bytes(of_rank(space=of_a_task)) == plain
    dimensions, batch = 12 * (64 - 16), 64
    adapter = dimensions * (2 * 384 + 1) * 16  # value, gradient and two moments of W1, W2 and γ
    bases = 3 * 4 * dimensions * 384 * 3  # three copies of directions, float32, of three tasks before the last
    assert plain - needed_bytes(of_rank(16, batch)) == adapter + bases
