"""Who may drive a run: real processes, alive and dead, and drivers that this machine cannot see."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError, GuardStop, IntegrityError, OrthoplexError, StoreError
from cluster.processes import start_time
from cluster.storage import LocalStore, open_store
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry
from orchestrator.log.event import Event
from orchestrator.registry.catalog import listed
from orchestrator.registry.verify import verify
from orchestrator.run import driver_log as run_log
from orchestrator.run.driver_log import DriverLog, RunLog
from orchestrator.run.driver_process import standing, this_process
from orchestrator.sweeps.sweep_state import replay_sweep, sweep_log
from orchestrator.track.events import Commit, Finish, Open, Process, Renew, Retry, Start
from orchestrator.track.provenance import code_version
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from orchestrator.track.view import status_view
from tests.support.disks import Disk
from tests.support.entries import COMMIT, Raw

ELSEWHERE = Process(host="far", pid=7, space="another boot", started=1)
FIRST = Commit.model_validate(COMMIT)


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return Track(LocalStore(tmp_path), "default", "stream")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def silent(_: str) -> None: ...


def started_by(track: Track, process: Process, lease_s: float = 0.4) -> None:
    track.append(Start(driver=process, lease_s=lease_s), after=track.head())


def ops(track: Track) -> list[str]:
    return [entry.op for entry in track.entries()]


def test_a_process_is_told_from_its_successor(sleeper: subprocess.Popen[bytes]) -> None:
    here = this_process()
    other = here.model_copy(update={"pid": sleeper.pid, "started": start_time(sleeper.pid)})
    assert standing(other, here) == "alive"
    assert standing(other.model_copy(update={"started": 5}), here) == "gone"  # the pid was used again
    assert standing(other.model_copy(update={"space": "container"}), here) == "unknown"
    sleeper.kill()
    time.sleep(0.1)
    assert standing(other, here) == "gone"  # dead, though nobody has waited for it yet


def test_a_live_driver_is_left_alone(track: Track, sleeper: subprocess.Popen[bytes]) -> None:
    theirs = {"pid": sleeper.pid, "started": start_time(sleeper.pid)}
    started_by(track, this_process().model_copy(update=theirs), 600)
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
    renewal = threading.Timer(0.1, lambda: track.append(Renew(lease=lease.seq), after=lease))
    renewal.start()
    with pytest.raises(ConflictError, match="is at work on this run"):
        RunLog(track).take({}, 120, silent)
    renewal.join()


def test_who_was_taken_over_from_can_write_no_more(track: Track) -> None:
    first, second = RunLog(track), RunLog(track)
    first.take({}, 120, silent)
    first.append(Open(config={}, tasks=()))
    second.take({}, 120, silent)
    with pytest.raises(ConflictError, match="has taken the run over"):
        first.append(FIRST)
    with pytest.raises(ConflictError):
        first.check()
    second.append(Retry(index=0, reason="", kind="workers"))
    assert ops(track) == ["start", "open", "start", "retry"]


def test_a_commit_under_another_lease_is_void(track: Track) -> None:
    log = RunLog(track)
    log.take({}, 120, silent)
    log.append(FIRST)
    track.append(FIRST.model_copy(update={"version": 2}).under(99), after=track.head())
    assert [commit.version for commit in replay("default", "stream", track.entries()).commits] == [1]


def test_entries_of_others_are_taken_in(track: Track) -> None:
    log = RunLog(track)
    log.take({}, 120, silent)
    track.append(Raw("alias", {"name": "production"}), after=track.head())
    log.append(FIRST)
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
    log.append(Finish())
    assert log.state.driving.driver is None


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
            log.append(Open(config={}, tasks=()))
            able.append(log)
        except ConflictError:
            pass
    assert len(able) == 1


# --- renewals


def failing(log: RunLog, error: Exception, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> list[str]:
    """From now on so many renewals fail; the operations that were tried."""
    tried, append = list[str](), log.log.append

    def odd(says: Event, **options: Any) -> Entry:
        tried.append(says.op)
        if says.op == "renew" and tried.count("renew") <= times:
            raise error
        return append(says, **options)

    monkeypatch.setattr(log.log, "append", odd)
    return tried


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (IntegrityError("entry 1 was changed"), IntegrityError), (ConfigError("no key"), ConfigError),
        (TypeError("odd"), OrthoplexError), (MemoryError(), OrthoplexError),
    ],
)  # fmt: skip
def test_renewals_that_end_stop_the_run(
    track: Track, error: Exception, kept: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would know that the driver is alive. The log says why it left; nothing else is written after."""
    log = RunLog(track)
    log.take(code_version()["packages"], 0.3, silent)
    tried = failing(log, error, monkeypatch)
    with pytest.raises(kept) as caught, log.left(), log.kept(0.3):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            log.check()
            time.sleep(0.01)
    assert str(error) in str(caught.value) and tried == ["renew", "fail"] and ops(track) == ["start", "fail"]
    assert isinstance(error, OrthoplexError) or "could not be renewed" in str(caught.value)
    assert track.entries()[-1].body["reason"] == str(caught.value)


@pytest.mark.parametrize("error", [StoreError("away"), ConflictError("others wrote 60 entries")])
def test_renewals_outlast_a_store_that_is_away(track: Track, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is still held, as far as anyone knows."""
    log = RunLog(track)
    log.take({}, 0.3, silent)
    tried = failing(log, error, monkeypatch, times=2)
    with log.kept(0.3):
        end = time.monotonic() + 10
        while "renew" not in ops(track) and time.monotonic() < end:
            log.check()
            time.sleep(0.02)
    assert tried.count("renew") >= 3 and "renew" in ops(track)
    log.append(Finish())


def test_renewals_end_where_another_took_over(track: Track) -> None:
    first, second = RunLog(track), RunLog(track)
    first.take({}, 0.3, silent)
    with pytest.raises(ConflictError, match="has taken the run over"), first.left(), first.kept(0.3):
        second.take({}, 120, silent)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            first.check()
            time.sleep(0.01)
    assert ops(track)[-1] == "start"  # the first one says no more


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_lease_that_is_renewed_for_hours(kind: str, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """600 renewals by the thread that makes them, each a hundredth of a second after the other."""
    monkeypatch.setattr(run_log, "LEAST_WAIT_S", 0.001)
    kept: Any = sweep_log(track.store, "default", "grid") if kind == "sweep" else track
    log: Any = DriverLog(kept, replay_sweep, "sweep") if kind == "sweep" else RunLog(track)
    log.take(code_version()["packages"], 5, silent)
    end = time.monotonic() + 60
    with log.left(), log.kept(0.003 * run_log.RENEWALS):
        while log.state.head.seq < 620:
            log.check()
            assert time.monotonic() < end
            time.sleep(0.01)
    log.append(Finish())
    entries = kept.raw_entries()
    assert [entry.seq for entry in entries if entry.op == "index"][:3] == [201, 401, 601]
    assert kept.indices()[:3] == [600, 400, 200] and kept.entries() == entries
    assert kept.write_index() == len(entries) and log.state.driving.status == "finished"
    if kind == "run":
        assert verify(track).faults == [] and list(listed(track.store)) == []


def test_the_next_entry_carries_what_was_decided(track: Track) -> None:
    """Whatever that entry is, and once; what a driver decides counts as long as its entries do."""
    log = RunLog(track)
    log.take({}, 120, silent)
    passed = Decision(rule="guards.max_forgetting", subject="v1", measured=0.1, bound=0.2, verdict="go_on", reason="so")
    stopped = passed.model_copy(update={"verdict": "stop"})
    log.decide(passed)
    log.append(Renew())
    log.append(Renew())
    with pytest.raises(GuardStop), log.left():
        log.decide(passed, stopped)
        raise GuardStop("so")
    carried = [(each.entry.op, each.decision) for each in log.state.decisions]
    assert carried == [("renew", passed), ("stop", passed), ("stop", stopped)]
    assert [("decisions" in entry.body) for entry in track.entries()] == [False, True, False, True]
    shown = status_view(RunLog(track).state)["decisions"]
    assert [each["seq"] for each in shown] == [2, 4, 4] and shown[0] == {
        "seq": 2, "time": log.entries[1].time, "rule": "guards.max_forgetting", "subject": "v1", "measured": 0.1,
        "bound": 0.2, "verdict": "go_on", "reason": "so",
    }  # fmt: skip


def test_a_decision_that_a_newer_version_wrote_is_left_out(track: Track) -> None:
    made = [{"rule": "r", "subject": "v1", "verdict": "go_on", "reason": "so"}, {"rule": 1}, "x"]
    track.append(Raw("renew", {"decisions": made}), after=None)
    assert [each.decision.rule for each in RunLog(track).state.decisions] == ["r"]


# --- a store that is taken away


@pytest.mark.parametrize("how", ["removed", "unmounted"])
def test_a_store_that_is_gone_stops_the_run(track: Track, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """At the next renewal, though nothing else is written. Nothing is made in its place, and the run goes on when it is
    back. A mount leaves an empty folder behind."""
    monkeypatch.setenv("ORTHOPLEX_STORE_PATIENCE_S", "0")
    log, root = RunLog(track), Path(track.store.uri)
    log.take({}, 0.3, silent)
    root.rename(root.with_name("away"))
    if how == "unmounted":
        root.mkdir()
    with pytest.raises(StoreError, match=f"store {root}: ") as caught, log.left(), log.kept(0.3):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            log.check()
            time.sleep(0.01)
    assert ("is gone" if how == "removed" else "is not there any more: the folder was removed, unmounted") in str(
        caught.value
    )
    assert not root.exists() if how == "removed" else [*root.iterdir()] == []
    if how == "unmounted":
        root.rmdir()
    root.with_name("away").rename(root)
    again = RunLog(track)
    again.take({}, 0.3, silent)
    again.append(Finish())
    assert ops(track)[0] == "start" and ops(track)[-1] == "finish"


def test_a_full_store_is_no_end_of_a_run(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is renewed again when there is room."""
    track = Track(open_store(str(disk.path / "store")), "team", "run")
    log = RunLog(track)
    log.take({}, 0.3, silent)
    with log.kept(0.3):
        filler, before = disk.fill(), len(ops(track))
        time.sleep(0.3)
        log.check()
        filler.unlink()
        end = time.monotonic() + 10
        while len(ops(track)) == before and time.monotonic() < end:
            time.sleep(0.02)
    log.append(Finish())
    assert ops(track)[-2:] == ["renew", "finish"]
