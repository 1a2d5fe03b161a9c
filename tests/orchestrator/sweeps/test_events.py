"""Bodies of a sweep's entries as earlier versions stored them: read and written again, they are the same bytes."""

import json
from typing import Any

import pytest

from orchestrator.log.entry import canonical
from orchestrator.sweeps.events import KNOWN, OPERATIONS, Chosen, Outcome

FILES = [
    {"path": "front.png", "size": 24187, "sha256": "e" * 64},
    {"path": "trials.json", "size": 7, "sha256": "f" * 64},
]
ROW = {
    "tasks": 1, "aa": 0.5333333333333333, "parameters": 14412, "bwt": None, "forgetting": None, "train_s": 3.25,
    "evaluate_s": 0, "gpus": 0.0,
}  # fmt: skip
STORED: list[tuple[str, dict[str, Any]]] = [
    ("pool", {"slots": 2, "cluster": {"num_workers": 1, "gpus_per_worker": 0.5, "address": None}, "lease": 1}),
    ("trial", {"number": 1, "run": "s-00001", "lease": 1,
               "values": {"adapter.threshold": 0.3, "adapter.max_rank": 8, "adapter.budget_weight": 1.0,
                          "adapter.orthogonality.side": "both", "train.x": True, "adapter.max_parameters": None}}),
    ("outcome", {"number": 1, "status": "finished", "reason": None, "rows": [ROW, {**ROW, "bwt": -0.01}], "lease": 1}),
    ("outcome", {"number": 2, "status": "failed", "reason": "the loss is nan", "rows": [], "lease": 1}),
    ("choice", {"pareto": [1, 2], "recommended": 1, "reason": "best AA (53.3)", "prefix": "t/d/.sweeps/s/v/0a",
                "importance": {"aa": {"adapter.threshold": 1.0, "adapter.max_rank": 0}}, "files": FILES, "lease": 1}),
    ("choice", {"pareto": [], "recommended": None, "reason": "no trial has finished all its tasks", "importance": {},
                "prefix": "t/d/.sweeps/s/v/0a", "files": FILES[:1], "lease": 1}),
    ("choice", {"pareto": [1], "recommended": 1, "reason": "best AA (53.3)", "importance": {}, "prefix": "p",
                "files": FILES, "lease": 1,
                "decisions": [{"rule": "choice.best_accuracy", "subject": "trial 1", "measured": 0.53, "bound": None,
                               "verdict": "recommend", "reason": "best AA (53.3)"}]}),
    ("open", {"config": {"name": "s", "run": {"train": {"learning_rate": 0.001}}}, "lease": 1,
              "tasks": [{"name": "a", "labels": ["x", "y"], "fingerprint": "a", "warnings": [],
                         "rows": {"train": 1, "validation": 2, "test": 3}}]}),
    ("start", {"versions": {"ray": "2.60"}, "lease_s": 120,
               "driver": {"host": "h", "pid": 1, "space": "boot pid:[1]", "started": 12}}),
    ("renew", {"lease": 1}), ("finish", {"reason": None, "lease": 1}),
    ("finish", {"reason": "the time is up", "lease": 1}),
    ("interrupt", {"reason": "interrupted", "lease": 1}), ("fail", {"reason": "x", "lease": 1}),
    ("index", {"upto": 200, "index_sha256": "d" * 64}),
]  # fmt: skip
KINDS = {kind.op: kind for kind in OPERATIONS}


@pytest.mark.parametrize(("op", "body"), STORED)
def test_bytes_stay_as_they_are(op: str, body: dict[str, Any]) -> None:
    read = KINDS[op].model_validate(json.loads(canonical(body)))
    assert read.op == op and canonical(read.body()) == canonical(body)


def test_each_operation_is_known_and_has_a_stored_body() -> None:
    """`stop` is a run's alone: no guard stops a sweep."""
    assert {*KINDS} == KNOWN and len(OPERATIONS) == len(KNOWN)
    assert {op for op, _ in STORED} == KNOWN - {"stop"}


def test_what_a_driver_writes_has_the_keys_of_before() -> None:
    """`reason` is written also where it is null."""
    written = Outcome(number=1, status="finished", reason=None, rows=())
    assert written.body() == {"number": 1, "status": "finished", "reason": None, "rows": []}


def test_the_same_choice_elsewhere() -> None:
    chosen = Chosen.model_validate(STORED[4][1])
    assert chosen.same(chosen.model_copy(update={"prefix": "other", "files": (), "lease": 9}))
    for key, value in {"pareto": (1,), "recommended": 2, "reason": "", "importance": {}}.items():
        assert not chosen.same(chosen.model_copy(update={key: value}))
    assert not chosen.same(None)
