"""A guard decides before the commit: what breaks a bound is quarantined, and committed later as it was trained.

Workers are not there, and the driver is killed at each instant.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, GuardStop, IntegrityError
from orchestrator.config.run import RunConfig
from orchestrator.console.notes import notes
from orchestrator.gates.junit import junit
from orchestrator.log.entry import Entry
from orchestrator.log.event import Event
from orchestrator.registry.aliases import promote
from orchestrator.registry.gating import gate
from orchestrator.registry.gc import Collector
from orchestrator.registry.quarantine import discard, held
from orchestrator.registry.verify import verify
from orchestrator.run.controller import Controller
from orchestrator.run.driver_log import RunLog
from orchestrator.run.fork import plan_fork
from orchestrator.track.events import Commit, Quarantine
from orchestrator.track.moves import aliases
from orchestrator.track.rules import PromotionRule
from orchestrator.track.view import status_view
from tests.support import fake_workers
from tests.support.entries import Raw
from tests.support.fake_workers import Asked, FakeWorkers, Killed, Told, run_config, without_ray

WORSE = {0: 0.8, 1: 0.2}  # AA of 0.8, then 0.5
BOUND = {"min_average_accuracy": 0.6}
NOW = timedelta(0)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def asked(config: RunConfig, **workers: Any) -> Asked:
    return fake_workers.asked(config, **{"accuracy": WORSE, **workers})


def bounded(store: Path, tasks: str = "abc", **sections: Any) -> RunConfig:
    return run_config(store, tasks, **{"guards": BOUND, **sections})


def entries(controller: Controller) -> list[Entry]:
    return controller.track.entries()


def ops(controller: Controller) -> list[str]:
    return [entry.op for entry in entries(controller)]


@pytest.fixture
def stopped(store: Path) -> Controller:
    """v1 is committed, and b breaks the bound."""
    controller, _ = asked(bounded(store))
    with pytest.raises(GuardStop):
        controller.run()
    return controller


def test_a_breach_is_quarantined_and_the_stream_stays_as_it_is(stopped: Controller) -> None:
    assert ops(stopped) == ["start", "open", "workers", "commit", "workers", "quarantine", "stop"]
    commit, _, quarantine, stop = entries(stopped)[3:]
    assert [(each["rule"], each["verdict"]) for each in commit.body["decisions"]] == [
        ("guards.min_average_accuracy", "go_on")
    ]
    assert [(each["measured"], each["verdict"]) for each in quarantine.body["decisions"]] == [(0.5, "stop")]
    assert "decisions" not in stop.body and "adapters gc default/stream --quarantined --yes" in stop.body["reason"]
    state = stopped.state
    assert (state.status, state.learned, len(state.commits)) == ("stopped", 1, 1)
    assert state.quarantined and (state.quarantined.version, state.quarantined.task) == (2, "b")
    assert [each["state"] for each in status_view(state)["tasks"]] == ["done", "quarantined", "pending"]  # type: ignore
    (row,) = held(stopped.store)
    assert (row["name"], row["version"], row["task"]) == ("default/stream", 2, "b")
    assert row["reasons"] == ["AA of 50.00 points is below guards.min_average_accuracy 0.6 (60.00 points)"]
    assert row["location"] == quarantine.body["prefix"] and row["manifest_sha256"] == quarantine.body["manifest_sha256"]


def test_aliases_stay_and_promote_what_is_committed_alone(stopped: Controller) -> None:
    promote(stopped.track, 1, "production")
    with pytest.raises(ConfigError, match=r"v2: no such version; default/stream has v1"):
        promote(stopped.track, 2, "production")
    assert aliases(entries(stopped))["production"].version == 1


def test_run_again_with_another_bound_commits_the_same_files(stopped: Controller, store: Path) -> None:
    quarantine = entries(stopped)[-2].body
    again, fake = asked(bounded(store, guards={"min_average_accuracy": 0.4}))
    state = again.run()
    assert [order.index for order in fake.orders] == [2]  # b is not trained again
    assert ops(again)[7:] == ["start", "open", "commit", "workers", "commit", "finish"]
    commit = entries(again)[9].body
    differ = {"decisions", "identity", "lease"}
    assert {k: v for k, v in commit.items() if k not in differ} == {
        k: v for k, v in quarantine.items() if k not in differ
    }
    assert state.quarantined is None and [each.version for each in state.commits] == [1, 2, 3]
    assert [*held(again.store)] == [] and verify(again.track).faults == []


def test_what_was_quarantined_is_what_would_have_been_committed(stopped: Controller, store: Path) -> None:
    """All but places and times, beside a run that had no guard."""
    other, _ = asked(bounded(store, "ab", guards={}, name="other"))
    other.run()
    again, _ = asked(bounded(store, "ab", name="stream", guards={}))
    with pytest.raises(ConfigError, match="tasks may only be appended"):
        again.run()
    again, _ = asked(bounded(store, guards={}))
    again.run()
    found = [each.model_dump(exclude={"prefix", "manifest_sha256", "seq", "time", "lease", "test", "validation"})
             for run in (other, again) for each in run.state.commits[1:2]]  # fmt: skip
    assert found[0] == {**found[1], "decisions": ()}


def test_run_again_under_the_same_bound_stops_without_training(stopped: Controller, store: Path) -> None:
    for _ in range(2):
        again, fake = asked(bounded(store))
        with pytest.raises(GuardStop, match="v2, b, is quarantined"):
            again.run()
        assert fake.calls == ["check", "describe"]
    assert ops(again)[7:] == ["start", "stop", "start", "stop"]
    assert [each["verdict"] for each in entries(again)[-1].body["decisions"]] == ["go_on", "stop"]


def killed_at(controller: Controller, monkeypatch: pytest.MonkeyPatch, kind: type[Event], *, before: bool) -> None:
    """Ends the driver before or after an entry of this kind is written for version 2."""
    append = RunLog.append

    def dying(self: RunLog, event: Event) -> None:
        ours = isinstance(event, kind) and getattr(event, "version", 2) == 2
        if not (ours and before):
            append(self, event)
        if ours:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunLog, "append", dying)
        with pytest.raises(Killed):
            controller.run()


@pytest.mark.parametrize("before", [True, False])
def test_killed_around_the_quarantine_entry(store: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    """Before it, the task is trained again; after it, it is not, and the bound holds all the same."""
    controller, fake = asked(bounded(store))
    killed_at(controller, monkeypatch, Quarantine, before=before)
    again, workers = asked(bounded(store))
    with pytest.raises(GuardStop, match="v2, b, is quarantined"):
        again.run()
    assert [order.index for order in workers.orders] == [1] * before
    assert ops(again).count("quarantine") == 1 and len(again.state.commits) == 1
    last, rest = asked(bounded(store, guards={}))
    assert last.run().learned == 3 and [order.index for order in rest.orders] == [2]
    trained = (workers if before else fake).prefixes[-1]
    assert last.state.commits[1].prefix == trained and verify(last.track).faults == []


@pytest.mark.parametrize("before", [True, False])
def test_killed_around_the_commit_of_what_was_quarantined(
    stopped: Controller, store: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    loose = bounded(store, guards={})
    killed_at(asked(loose)[0], monkeypatch, Commit, before=before)
    again, fake = asked(loose)
    assert again.state.learned == (1 if before else 2)
    assert again.run().learned == 3 and [order.index for order in fake.orders] == [2]
    assert ops(again).count("commit") == 3 and verify(again.track).faults == []


def test_files_that_were_changed_are_not_committed(stopped: Controller, store: Path) -> None:
    prefix = entries(stopped)[-2].body["prefix"]
    path = store / str(prefix) / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert len(verify(stopped.track).faults) == 1
    with pytest.raises(IntegrityError):
        asked(bounded(store, guards={}))[0].run()
    assert len(asked(bounded(store))[0].state.commits) == 1


def test_what_would_be_trained_otherwise_now_is_trained_anew(store: Path) -> None:
    """The first task: nothing is committed yet, so that all may be changed."""
    controller, _ = asked(bounded(store, guards={"min_average_accuracy": 0.9}))
    with pytest.raises(GuardStop):
        controller.run()
    other = bounded(store, guards={}, train={"learning_rate": 0.5})
    again, fake = asked(other)
    assert again.run().learned == 3 and [order.index for order in fake.orders] == [0, 1, 2]
    assert isinstance(again.reporter, Told)
    assert "v1, a, is quarantined, but is to be trained otherwise now: training it anew" in again.reporter.lines
    assert len(Collector(again.track, NOW).collect().remove) == 1  # what was trained first
    assert verify(again.track).faults == []


def test_gc_keeps_the_files_until_another_takes_their_place(stopped: Controller, store: Path) -> None:
    collector = Collector(stopped.track, NOW)
    assert collector.collect().remove == ()
    prefix = discard(stopped.track)
    assert prefix and discard(stopped.track) is None and [*held(stopped.store)] == []
    assert collector.collect().remove == (prefix,) and not (store / prefix / "manifest.json").exists()
    again, fake = asked(bounded(store, guards={}))
    assert again.run().learned == 3 and [order.index for order in fake.orders] == [1, 2]
    assert verify(again.track).faults == []


def test_with_confidence_a_breach_inside_the_noise_does_not_stop(store: Path) -> None:
    """AA of 50 points on 20 rows is below 60, but these rows cannot tell; that it is below 80 they can."""
    rows = {"evaluate": {"keep_rows": True}}
    sure = bounded(store, "ab", guards={**BOUND, "confidence": 0.95}, **rows)
    controller, _ = asked(sure)
    state = controller.run()
    (_, last) = (each.decision for each in state.decisions)
    assert (state.status, last.verdict, last.open, last.measured) == ("finished", "go_on", True, 0.5)
    assert last.limits == (pytest.approx(0.35, abs=0.06), pytest.approx(0.65, abs=0.06))
    assert [line for line in notes(state) if "these rows cannot tell on which side it is" in line] == [last.reason]
    assert status_view(state)["decisions"][1]["limits"] == [*last.limits]  # type: ignore[index, call-overload]
    unsure = gate(controller.store, "stream", PromotionRule(min_average_accuracy=0.6, confidence=0.95))
    assert (unsure.broken, len(unsure.open)) == ([], 1)
    assert len(gate(controller.store, "stream", PromotionRule(min_average_accuracy=0.6)).broken) == 1
    with pytest.raises(GuardStop, match=r"at 95% confidence between .* is quarantined"):
        asked(bounded(store, "ab", name="low", guards={"min_average_accuracy": 0.8, "confidence": 0.95}, **rows))[
            0
        ].run()
    with pytest.raises(GuardStop):
        asked(bounded(store, "ab", name="plain", **rows))[0].run()


def test_a_gate_and_its_junit_report_tell_of_the_breach(stopped: Controller) -> None:
    verdict = gate(stopped.store, "stream")
    assert (verdict.ref, verdict.quarantined, len(verdict.broken)) == ("default/stream@v2", True, 1)
    assert 'failures="1"' in junit(verdict) and "below guards.min_average_accuracy" in junit(verdict)


def test_a_fork_takes_what_is_committed(stopped: Controller, store: Path) -> None:
    forked = bounded(store, name="other", guards={})
    controller = Controller(forked, Told(), plan_fork(stopped.track, None), FakeWorkers(forked))
    assert controller.run().learned == 3
    assert [each.forked_from for each in controller.state.commits] == ["default/stream@v1", None, None]


def test_a_log_of_before_in_which_the_breach_is_committed_goes_on_as_before(stopped: Controller, store: Path) -> None:
    """It says `commit`, then `stop`: run again stops before anything is started, with a wider bound it goes on."""
    quarantine = entries(stopped)[-2]
    for entry in entries(stopped)[:4:-1]:
        stopped.store.delete(stopped.track._key(entry.seq))
    stopped.track.seen.forget()
    body = {k: v for k, v in quarantine.body.items() if k not in ("identity", "decisions")}
    stopped.track.append(Raw("commit", body), after=stopped.track.head())
    stopped.track.append(Raw("stop", {"lease": 1, "reason": "stopped"}), after=stopped.track.head())
    again, fake = asked(bounded(store))
    assert again.state.learned == 2
    with pytest.raises(GuardStop, match="change the bound and run again to go on"):
        again.run()
    assert fake.calls == ["check", "describe"] and ops(again)[-2:] == ["start", "stop"]
    wider, _ = asked(bounded(store, guards={"min_average_accuracy": 0.4}))
    assert wider.run().learned == 3


def test_an_older_orthoplex_neither_drives_nor_collects(stopped: Controller) -> None:
    from orchestrator.track.events import KNOWN, refuse_unknown, skipped

    older = KNOWN - {"quarantine", "approval"}
    assert "quarantine ×1" in str(skipped(entries(stopped), older))
    with pytest.raises(Exception, match=r"entry 6 \(quarantine\) was written by a newer Orthoplex"):
        refuse_unknown("x", entries(stopped), older)
