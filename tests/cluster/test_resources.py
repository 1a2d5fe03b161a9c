import pytest
from pydantic import ValidationError

from cluster.resources import ClusterConfig, TaskResources, workers_per_gpu


def test_shortage_names_what_is_missing() -> None:
    asked = ClusterConfig(num_workers=3, use_gpu=True, cpus_per_worker=2)
    assert asked.worker_resources() == {"CPU": 2, "GPU": 1}
    assert asked.shortage({"CPU": 6.0, "GPU": 3.0}) == ""
    assert asked.shortage({"CPU": 8.0}) == "3 workers need 3 GPUs, there are 0"
    assert asked.shortage({"CPU": 4.0, "GPU": 1.0}) == "3 workers need 6 CPUs, there are 4 and 3 GPUs, there are 1"


@pytest.mark.parametrize(
    ("total", "available", "reserved", "expected"),
    [
        (2, 0, 2, "their room is reserved; they start, import what trains, and load the model"),
        (4, 2, 0, "there is room for them; Ray is about to reserve it"),
        (4, 1, 0, "2 workers need 2 CPUs, there are 1; others hold 3 CPUs"),
        (4, 0, 1, "2 workers need 2 CPUs, there are 1; others hold 3 CPUs"),
        (1, 1, 0, "2 workers need 2 CPUs, there are 1"),
    ],
)
def test_what_workers_wait_for(total: float, available: float, reserved: float, expected: str) -> None:
    asked = ClusterConfig(num_workers=2)
    assert asked.awaited({"CPU": total}, {"CPU": available}, {"CPU": reserved} if reserved else {}) == expected


def test_part_of_a_gpu_is_for_runs_of_one_worker() -> None:
    for parts in range(1, 64):  # Ray rounds to ten-thousandths: together they must not be more than one
        share = ClusterConfig(num_workers=1, use_gpu=True, gpus_per_worker=1 / parts).worker_resources()["GPU"]
        assert 0.99 < round(share * 10_000) * parts / 10_000 <= 1
    assert ClusterConfig(num_workers=2, use_gpu=True, gpus_per_worker=2).worker_resources() == {"CPU": 1, "GPU": 2}
    assert "GPU" not in ClusterConfig(num_workers=2, gpus_per_worker=0.5).worker_resources()
    with pytest.raises(ValidationError, match="NCCL refuses; set num_workers to 1, or gpus_per_worker to 1"):
        ClusterConfig(num_workers=2, use_gpu=True, gpus_per_worker=0.5)
    with pytest.raises(ValidationError, match="more than one GPU but not whole; use 1 or 2"):
        ClusterConfig(use_gpu=True, gpus_per_worker=1.5)


def test_a_task_may_not_ask_for_what_the_run_excludes() -> None:
    half = ClusterConfig(num_workers=1, use_gpu=True, gpus_per_worker=0.5)
    with pytest.raises(ValueError, match="NCCL"):
        half.with_resources(TaskResources(num_workers=2))
    assert half.with_resources(TaskResources(num_workers=2, gpus_per_worker=1)).worker_resources()["GPU"] == 1


def test_workers_that_fit_on_a_gpu() -> None:
    """95% of the memory, and half a GiB for CUDA a worker."""
    gib = 1 << 30
    assert workers_per_gpu(gib, 80 * gib) == 50  # 76 / 1.5 = 50.7
    assert workers_per_gpu(53 * gib, 80 * gib) == 1
    assert workers_per_gpu(76 * gib, 80 * gib) == 0
