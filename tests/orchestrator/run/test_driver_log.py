"""Who may drive a run: real processes, alive and dead, and drivers that this machine cannot see."""

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.errors import ConflictError, GuardStop
from cluster.processes import start_time
from cluster.storage import LocalStore
from orchestrator.log.decision import Decision
from orchestrator.run.driver_log import RunLog
from orchestrator.run.lease import DriverProcess, standing, this_process
from orchestrator.track.state import replay, status
from orchestrator.track.track import Track

ELSEWHERE = DriverProcess("far", 7, "another boot", 1)


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return Track(LocalStore(tmp_path), "default", "stream")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def silent(_: str) -> None: ...


def started_by(track: Track, process: DriverProcess, lease_s: float = 0.4) -> None:
    track.append("start", {"driver": asdict(process), "lease_s": lease_s}, after=track.head())


def ops(track: Track) -> list[str]:
    return [entry.op for entry in track.entries()]


def test_a_process_is_told_from_its_successor(sleeper: subprocess.Popen[bytes]) -> None:
    here = this_process()
    other = replace(here, pid=sleeper.pid, started=start_time(sleeper.pid))
    assert standing(asdict(other), here) == "alive"
    assert standing(asdict(replace(other, started=5)), here) == "gone"  # the pid was used again
    assert standing(asdict(replace(other, space="container")), here) == "unknown"
    sleeper.kill()
    time.sleep(0.1)
    assert standing(asdict(other), here) == "gone"  # dead, though nobody has waited for it yet


def test_a_live_driver_is_left_alone(track: Track, sleeper: subprocess.Popen[bytes]) -> None:
    started_by(track, replace(this_process(), pid=sleeper.pid, started=start_time(sleeper.pid)), 600)
    with pytest.raises(ConflictError, match=rf"pid {sleeper.pid}, since .* is at work on this run"):
        RunLog(track).take({}, 120, silent)
    sleeper.kill()
    sleeper.wait()
    RunLog(track).take({}, 120, silent)  # without waiting for its ten minutes
    assert ops(track) == ["start", "start"]


def test_a_silent_driver_elsewhere_is_watched_for_its_lease(track: Track) -> None:
    started_by(track, ELSEWHERE)
    said: list[str] = []
    before = time.monotonic()
    RunLog(track).take({}, 120, said.append)
    assert time.monotonic() - before >= 0.4
    assert "taking over" in said[0] and "pid 7" in said[0]


def test_a_driver_elsewhere_that_renews_keeps_the_run(track: Track) -> None:
    started_by(track, ELSEWHERE)
    lease = track.head()
    assert lease
    renewal = threading.Timer(0.1, lambda: track.append("renew", {"lease": lease.seq}, after=lease))
    renewal.start()
    with pytest.raises(ConflictError, match="is at work on this run"):
        RunLog(track).take({}, 120, silent)
    renewal.join()


def test_who_was_taken_over_from_can_write_no_more(track: Track) -> None:
    first, second = RunLog(track), RunLog(track)
    first.take({}, 120, silent)
    first.append("open", {"config": {}, "tasks": []})
    second.take({}, 120, silent)
    with pytest.raises(ConflictError, match="has taken the run over"):
        first.append("commit", {"version": 1})
    with pytest.raises(ConflictError):
        first.check()
    second.append("retry", {})
    assert ops(track) == ["start", "open", "start", "retry"]


def test_a_commit_under_another_lease_is_void(track: Track) -> None:
    log = RunLog(track)
    log.take({}, 120, silent)
    log.append("commit", {"version": 1})
    track.append("commit", {"version": 2, "lease": 99}, after=track.head())
    assert [commit["version"] for commit in replay("default", "stream", track.entries()).commits] == [1]


def test_entries_of_others_are_taken_in(track: Track) -> None:
    log = RunLog(track)
    log.take({}, 120, silent)
    track.append("alias", {"name": "production"}, after=track.head())
    log.append("commit", {"version": 1})
    assert ops(track) == ["start", "alias", "commit"] and len(log.state.commits) == 1


def test_a_lease_is_renewed_while_there_is_nothing_to_say(track: Track) -> None:
    log = RunLog(track)
    log.take({}, 0.6, silent)
    with log.kept(0.6):
        time.sleep(1.1)
    count = ops(track).count("renew")
    assert 2 <= count <= 5
    time.sleep(0.5)
    assert ops(track).count("renew") == count  # none after the driver has left
    log.append("finish", {})
    assert log.state.driver is None


def test_of_racing_drivers_elsewhere_one_gets_the_run(track: Track) -> None:
    started_by(track, ELSEWHERE, 0.2)
    won: list[RunLog] = []

    def race() -> None:
        log = RunLog(Track(track.store, "default", "stream"))
        log.take({}, 120, silent)
        won.append(log)

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    able = []
    for log in won:  # one process, so each may take over from the one before: the last alone can write
        try:
            log.append("open", {"config": {}, "tasks": []})
            able.append(log)
        except ConflictError:
            pass
    assert len(able) == 1


def test_the_next_entry_carries_what_was_decided(track: Track) -> None:
    """Whatever that entry is, and once; what a driver decides counts as long as its entries do."""
    log = RunLog(track)
    log.take({"versions": {}}, 120, silent)
    passed = Decision(rule="guards.max_forgetting", subject="v1", measured=0.1, bound=0.2, verdict="go_on", reason="so")
    stopped = passed.model_copy(update={"verdict": "stop"})
    log.decide(passed)
    log.append("renew", {})
    log.append("renew", {})
    with pytest.raises(GuardStop), log.left():
        log.decide(passed, stopped)
        raise GuardStop("so")
    carried = [(each.entry.op, each.decision) for each in log.state.decisions]
    assert carried == [("renew", passed), ("stop", passed), ("stop", stopped)]
    assert [("decisions" in entry.body) for entry in track.entries()] == [False, True, False, True]
    shown = status(RunLog(track).state)["decisions"]
    assert [each["seq"] for each in shown] == [2, 4, 4] and shown[0] == {
        "seq": 2, "time": log.entries[1].time, "rule": "guards.max_forgetting", "subject": "v1", "measured": 0.1,
        "bound": 0.2, "verdict": "go_on", "reason": "so",
    }  # fmt: skip


def test_a_decision_that_a_newer_version_wrote_is_left_out(track: Track) -> None:
    made = [{"rule": "r", "subject": "v1", "verdict": "go_on", "reason": "so"}, {"rule": 1}, "x"]
    track.append("renew", {"decisions": made}, after=None)
    assert [each.decision.rule for each in RunLog(track).state.decisions] == ["r"]
