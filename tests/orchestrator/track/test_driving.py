"""Who drives a log, and how it was left."""

from typing import Any

from orchestrator.log.entry import Entry
from orchestrator.track.driving import Driving, counted, driving

PROCESS = {"host": "h", "pid": 7, "space": "s", "started": 1}
START = {"versions": {}, "driver": PROCESS, "lease_s": 120}


def log(*items: tuple[str, dict[str, Any]]) -> list[Entry]:
    return [Entry(n, "", "", "a@h", f"t{n}", op, body, f"{n}") for n, (op, body) in enumerate(items, 1)]


def replayed(*items: tuple[str, dict[str, Any]]) -> Driving:
    return driving(counted(log(*items)))


def test_nobody_drives_an_empty_log() -> None:
    assert replayed() == Driving()


def test_the_newest_start_holds_the_log() -> None:
    found = replayed(("start", START), ("start", {**START, "lease_s": 60}))
    assert found.driver and (found.driver.seq, found.driver.time, found.driver.start.lease_s) == (2, "t2", 60)
    assert found.status == "running" and found.driver.start.driver.pid == 7


def test_what_a_driver_writes_after_it_was_taken_over_from_does_not_count() -> None:
    entries = log(("start", START), ("start", START), ("fail", {"lease": 1, "reason": "late"}), ("promote", {}))
    assert [entry.seq for entry in counted(entries)] == [1, 2, 4]
    assert driving(counted(entries)).status == "running"


def test_each_ending_names_the_status_and_why() -> None:
    for op, status in (("finish", "finished"), ("stop", "stopped"), ("interrupt", "interrupted"), ("fail", "failed")):
        found = replayed(("start", START), (op, {"lease": 1, "reason": "why"}))
        assert (found.status, found.reason, found.driver) == (status, "why", None)
        assert found.told == "reason: why"
        assert replayed(("start", START), (op, {"lease": 1}), ("start", START)).status == "running"


def test_progress_is_of_the_last_that_was_heard_from_a_driver() -> None:
    place = {"index": 0, "phase": "train", "step": 3, "total_steps": 9}
    renewed = (("start", START), ("renew", {"lease": 1, "progress": place}), ("promote", {}), ("index", {}))
    found = replayed(*renewed)
    assert found.progress and found.progress.step == 3 and found.heard and found.heard.seq == 2
    assert replayed(*renewed, ("commit", {"lease": 1})).progress is None


DONE = (("start", START), ("open", {"config": {}, "tasks": [], "lease": 1}), ("finish", {"lease": 1}))


def test_a_finished_log_stays_so_if_the_next_driver_leaves_before_it_has_changed_anything() -> None:
    for op in ("fail", "interrupt"):
        left = (*DONE, ("start", START), ("renew", {"lease": 4}), (op, {"lease": 4, "reason": "no such file"}))
        found = replayed(*left)
        assert (found.status, found.reason, found.driver) == ("finished", "no such file", None)
        assert found.told == "a later start changed nothing: no such file"
        assert (replayed(*left, ("start", START)).status, replayed(*left, ("start", START)).reason) == ("running", None)
    killed = (*DONE, ("start", START), ("start", START), ("fail", {"lease": 5}))
    assert replayed(*killed).status == "finished"


def test_a_finished_log_fails_once_something_was_begun() -> None:
    for op, body in (("open", {"config": {}, "tasks": []}), ("commit", {}), ("trial", {})):
        found = replayed(*DONE, ("start", START), (op, {**body, "lease": 4}), ("fail", {"lease": 4}))
        assert found.status == "failed"
    assert replayed(*DONE[:2], ("fail", {"lease": 1}), ("start", START), ("fail", {"lease": 4})).status == "failed"


def test_the_checkpoint_that_was_named_last_holds_until_the_task_is_committed() -> None:
    def at(step: int, **more: Any) -> tuple[str, dict[str, Any]]:
        return "renew", {"progress": {"index": 0, "phase": "train", "step": step, "total_steps": 9, **more}}

    named = {"step": 2, "sha256": "a", "of": "b"}
    begun = [("start", START), at(2, checkpoint=named), at(3), ("renew", {})]
    found = replayed(*begun, ("start", START))
    assert found.checkpoint and found.checkpoint.step == 2 and found.progress is None
    done = {"task": "a", "version": 1, "prefix": "p", "manifest_sha256": "0" * 64, "stored_bytes": 1}
    assert replayed(*begun, ("commit", done)).checkpoint is None
