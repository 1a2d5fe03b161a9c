"""What is stored comes back byte for byte through the models, keys of newer versions too."""

from typing import Any

import pytest

from cluster.errors import StoreError
from orchestrator.log.entry import canonical
from orchestrator.log.event import Event, parse
from orchestrator.track.aside import ASIDE
from orchestrator.track.events import DRIVEN, KNOWN, Commit, Committed, Learned, Rules, refuse_unknown, skipped, unknown
from tests.support.entries import entry

KINDS: dict[str, type[Event]] = {kind.op: kind for kind in (*DRIVEN, *ASIDE, Rules)}
TASK = {
    "fingerprint": "f" * 64, "labels": ["no", "yes"], "name": "animal",
    "rows": {"test": 20, "train": 40, "validation": 10}, "warnings": ["1 row left out"],
}  # fmt: skip
SCORES = [{"correct": 7, "rows": 10}, {"correct": 0, "rows": 10}]
PLACED = {"manifest_sha256": "a" * 64, "prefix": "t/default/tiny/v/1", "stored_bytes": 51234, "version": 1}
# As recorded in the store of a run over Ray before bodies had models (tests/golden), and as `publish` wrote them.
STORED: list[tuple[str, dict[str, Any]]] = [
    ("start", {
        "cluster": {"address": None, "grace_s": 20.0, "num_workers": {"min": 2, "max": 2}, "use_gpu": False},
        "driver": {"host": "node", "pid": 4711, "space": "0b1f pid:[4026531836]", "started": 8123456},
        "lease_s": 120, "versions": {"orthoplex": "0.1.0", "python": "3.11.9", "torch": "2.11.0"},
    }),
    ("start", {
        "driver": {"host": "node", "pid": 1, "space": "", "started": -1}, "lease_s": 30.0,
        "versions": {"ray": "2.60.0"},
    }),
    ("open", {"config": {"adapter": {"threshold": 0.5, "x": [1, 1.0, None, "ü"]}}, "lease": 1, "tasks": [TASK]}),
    ("fork", {"described": [TASK], "lease": 1, "source": "default/tiny", "tasks": 1}),
    ("import", {
        "config": {"adapter": {"alpha": 8.0, "rank": 4}}, "files": {"adapter_config.json": "d" * 64},
        "origin": {"base": "org/model", "folder": "lora", "peft": "0.18.0"},
        "task": {"labels": ["no", "yes"], "name": "a"},
    }),
    ("workers", {"lease": 1, "seconds": {"workers": 3.25, "base": 1}, "workers": 2}),
    ("retry", {"index": 1, "kind": "workers", "lease": 1, "reason": "workers failed (rank 1 died); attempt 1 of 2"}),
    ("renew", {"lease": 1}),
    ("renew", {"lease": 1, "progress": {"index": 0, "phase": "train", "step": 3, "total_steps": 9}}),
    ("commit", {
        **PLACED, "active_parameters": 1234, "base_digest": "b" * 64,
        "budget": {"layer.0": {"max_rank": 4.0, "rank": 3.0, "tau": 0.5}},
        "cost": {"evaluate_s": 0.5, "train_s": 1.5, "workers": 2}, "index": 0, "lease": 1,
        "occupancy": {"layer.0": {"dropped": 0.0, "free": 9, "read": 0.0, "written": 0.125}}, "overlap": 0.0,
        "task": "animal", "test": SCORES, "validation": SCORES, "zero_shot": SCORES,
    }),
    ("commit", {
        **PLACED, "active_parameters": 9, "base_digest": "b" * 64, "budget": {}, "cost": {"train_s": 1.0},
        "forked_from": "default/tiny@v1", "index": 0, "lease": 1, "occupancy": {}, "overlap": 0.1, "task": "animal",
        "test": [], "validation": SCORES[:1],
    }),
    ("commit", {**PLACED, "active_parameters": 10, "base_digest": "b" * 64, "overlap": 0.0, "task": "imported"}),
    ("commit", {**PLACED, "task": "imported"}),
    ("quarantine", {
        **PLACED, "decisions": [{"bound": 0.6, "rule": "guards.min_average_accuracy", "verdict": "stop"}],
        "identity": "e" * 64, "index": 0, "lease": 1, "task": "a", "validation": SCORES,
    }),
    ("finish", {"lease": 1}),
    ("finish", {"lease": 1, "reason": None}),
    ("stop", {"lease": 1, "reason": "stopped by a guard: forgetting 0.2000 is above guards.max_forgetting 0.1"}),
    ("interrupt", {"lease": 1, "reason": "interrupted by SIGTERM"}),
    ("fail", {
        "evidence": {"log_before": [{"loss": 1e6, "step": 10}], "task": "a"}, "lease": 1, "reason": "the loss is nan",
    }),
    ("promote", {"alias": "production", "expect": 0, "rules_revision": 2, "version": 1, "why": "best"}),
    ("promote", {
        "alias": "production", "expect": 0, "overridden": ["max_forgetting"], "rules_revision": 2, "version": 1,
        "why": "asked for by the owner",
    }),
    ("approval", {"manifest_sha256": "a" * 64, "state": "approved", "version": 1, "why": "looked at samples"}),
    ("rollback", {"alias": "production", "expect": 9, "version": 1, "why": ""}),
    ("orphans", {"prefixes": ["t/default/tiny/v/2"]}),
    ("abort", {"prefixes": []}),
    ("delete", {"prefixes": ["t/default/tiny/v/3"], "versions": [3], "why": "wrong data"}),
    ("index", {"index_sha256": "c" * 64, "upto": 200}),
    ("rules", {"rules": {"keys": {}, "promotion": {}, "signatures": "off", "unsigned": {}}, "why": "first"}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "body"), STORED)
def test_bodies_come_back_byte_for_byte(op: str, body: dict[str, Any]) -> None:
    event = parse(entry(op, body), KINDS[op])
    assert event.op == op and event.body() == body
    assert canonical(event.body()) == canonical(body)  # 1 stays 1, 1.0 stays 1.0
    assert [*event.body()] == sorted(body)


def test_every_operation_is_among_them() -> None:
    assert {op for op, _ in STORED} == {*KINDS} == {*KNOWN, "rules"}


@pytest.mark.parametrize(("op", "body"), STORED)
def test_keys_of_a_newer_version_are_kept(op: str, body: dict[str, Any]) -> None:
    newer = {**body, "later": {"a": [1, 2.0]}}
    assert parse(entry(op, newer), KINDS[op]).body() == newer


def test_a_commit_in_the_log_has_a_number_and_a_time() -> None:
    body = {**PLACED, "task": "a"}
    found = parse(entry("commit", body, 12), Committed)
    assert (found.seq, found.time) == (12, "2026-01-01T00:00:00.000+00:00")
    assert found.body() == body  # which are the entry's, not the body's


def test_what_was_learned_becomes_a_commit() -> None:
    learned = Learned(task="a", overlap=0.0)
    made = Commit.placed(learned, version=3, prefix="p", manifest_sha256="m", stored_bytes=5)
    assert made.body() == {
        "manifest_sha256": "m", "overlap": 0.0, "prefix": "p", "stored_bytes": 5, "task": "a", "version": 3,
    }  # fmt: skip


# --- operations of a newer version


def test_unknown_operations_are_counted_by_readers_and_refused_by_writers() -> None:
    log = [entry("tag", {}, 1), entry("renew", {}, 2), entry("tag", {}, 3), entry("annotate", {}, 4)]
    assert [each.seq for each in unknown(log)] == [1, 3, 4]
    assert skipped(log) == "entries of a newer Orthoplex are left out (annotate ×1, tag ×2); upgrade to see them"
    with pytest.raises(StoreError, match=r"^team/x: entry 1 \(tag\) was written by a newer Orthoplex; upgrade$"):
        refuse_unknown("team/x", log)
    assert skipped(log[1:2]) is None
    refuse_unknown("team/x", log[1:2])
