"""What the doctor makes of facts; plain values in, findings out."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.doctor.checks import GIB, Clock, Facts, Node, StoreFacts, findings
from cluster.resources import ClusterConfig

GOOD: dict[str, Any] = {
    "name": "host", "python": "3.11.7", "packages": {"ray": "2.60.0", "torch": "2.13.0+cpu", "rich": "15.0.0"},
    "project": True, "auth_mode": "token", "gpus": [], "cuda": None, "memory_bytes": 64 * GIB, "shm_bytes": 32 * GIB,
    "disk_bytes": 1000 * GIB, "disk_free_bytes": 500 * GIB, "store": {"error": None, "seen": "s", "checked": True},
}  # fmt: skip
GPU = {"gpus": ["H200"], "cuda": {"cuda": "13.0", "nccl": "2.27.7"}}
STORE = StoreFacts("/mnt/store", None, "s", Clock(0.0))


def node(label: str = "node a", ray_gpus: float = 0.0, clock: Clock | None = Clock(0.0), **changed: Any) -> Node:  # noqa: B008
    return Node(label, {**GOOD, **changed}, ray_gpus, clock)


HEALTHY = Facts(
    driver=Node("here", GOOD), pins={"ray": "2.60.0", "torch": "2.13.0", "rich": "15.0.0"},
    packages=("ray", "torch", "rich"), address="auto", token=True, nodes=(node(), node("node b")),
    resources={"CPU": 4.0}, asked=ClusterConfig(num_workers=2), store=STORE,
)  # fmt: skip


def bad(facts: Facts) -> list[tuple[str, str]]:
    found = findings(facts)
    assert all(bool(finding.mend) == (finding.level != "ok") for finding in found)  # each says what mends it
    return [(finding.level, finding.what) for finding in found if finding.level != "ok"]


def test_a_healthy_cluster_has_nothing_to_mend() -> None:
    assert bad(HEALTHY) == []
    assert len(findings(HEALTHY)) >= 9


def test_this_machine_alone() -> None:
    assert bad(replace(HEALTHY, address=None, nodes=(), store=None, asked=None)) == []


def here(**changed: Any) -> Facts:
    return replace(HEALTHY, driver=Node("here", {**GOOD, **changed}))


def there(ray_gpus: float = 0.0, clock: Clock | None = Clock(0.0), **changed: Any) -> Facts:  # noqa: B008
    return replace(HEALTHY, nodes=(node(), node("node b", ray_gpus, clock, **changed)))


PACKAGES = GOOD["packages"]
CASES: list[tuple[Facts, str, str]] = [
    (replace(here(python="3.10.2"), nodes=()), "fail", "Python 3.10.2"),
    (here(packages={"ray": "2.60.0", "torch": "2.13.0"}), "fail", "not installed: rich"),
    (replace(here(packages={**PACKAGES, "rich": "14.0.0"}), nodes=()), "warn", "rich 14.0.0 (pinned: 15.0.0)"),
    (replace(HEALTHY, pins={}), "warn", "no constraints.txt"),
    (replace(HEALTHY, address_error="nothing answers", nodes=()), "fail", "nothing answers"),
    (here(auth_mode=""), "warn", "RAY_AUTH_MODE is not set"),
    (replace(HEALTHY, token=False), "fail", "there is none"),
    (there(auth_mode="disabled"), "fail", "node b: RAY_AUTH_MODE is disabled, here token"),
    (replace(HEALTHY, nodes=(Node("node b", None),)), "fail", "node b: runs no task"),
    (there(python="3.11.9"), "warn", "node b: Python 3.11.9, here 3.11.7"),
    (there(python="3.12.1"), "fail", "node b: Python 3.12.1"),
    (there(packages={**PACKAGES, "ray": "2.59.0"}), "fail", "node b: ray 2.59.0, here 2.60.0"),
    (there(packages={"ray": "2.60.0", "rich": "15.0.0"}), "fail", "node b: torch missing"),
    (there(packages={**PACKAGES, "rich": "14.0.0"}), "warn", "node b: rich 14.0.0"),
    (there(project=False), "warn", "the project is not installed"),
    (there(0, **GPU), "warn", "Ray gives out 0 of 1 GPUs"),
    (there(1, gpus=["H200"], cuda={"cuda": None, "nccl": None}), "fail", "built without CUDA"),
    (there(1, gpus=["H200"], cuda={"cuda": "13.0", "nccl": None}), "fail", "no NCCL"),
    (there(shm_bytes=8 * GIB), "warn", "/dev/shm has 8.0 GiB of 64"),
    (there(1, shm_bytes=GIB // 16, **GPU), "fail", "/dev/shm has 0.1 GiB"),
    (there(disk_free_bytes=40 * GIB), "fail", "40 of 1000 GiB free"),
    (there(disk_bytes=100 * GIB, disk_free_bytes=8 * GIB), "warn", "8 of 100 GiB free"),
    (replace(HEALTHY, resources={"CPU": 1.0}), "warn", "2 workers need 2 CPUs, there are 1"),
    (replace(HEALTHY, store=StoreFacts("s3://b", "access denied")), "fail", "access denied"),
    (there(store={"error": "cannot connect", "seen": None, "checked": True}), "fail", "node b: cannot connect"),
    (there(store={"error": None, "seen": "other", "checked": True}), "fail", "another folder than here"),
    (there(store={"error": None, "seen": None, "checked": True}), "fail", "another folder than here"),
    (there(clock=Clock(-5.0, 0.1)), "warn", "node b: clock is -5.0 s from here"),
    (there(clock=Clock(90.0, 0.1)), "fail", "node b: clock is +90.0 s"),
    (replace(HEALTHY, store=replace(STORE, clock=Clock(40.0, 0.6))), "fail", "the store: clock is +40.0 s"),
]


@pytest.mark.parametrize(("facts", "level", "what"), CASES, ids=[case[2] for case in CASES])
def test_one_fault_one_finding(facts: Facts, level: str, what: str) -> None:
    (found,) = bad(facts)
    assert found[0] == level and what in found[1]


def test_nccl_must_be_the_same_everywhere() -> None:
    other = {"gpus": ["H200"], "cuda": {"cuda": "13.0", "nccl": "2.26.2"}}
    facts = replace(HEALTHY, nodes=(node("node a", 1.0, **GPU), node("node b", 1.0, **other)))
    assert bad(facts) == [("fail", "NCCL differs between nodes: node a 2.27.7, node b 2.26.2")]


def test_builds_and_unsure_clocks_are_no_differences() -> None:
    assert bad(there(packages={**PACKAGES, "torch": "2.13.0+cu130"})) == []
    assert bad(there(clock=Clock(5.0, 4.0))) == []  # it may be 1 s
