"""The state of a run is its log, replayed; what may change between two starts is decided from two configurations."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.track.driving import Counting
from orchestrator.track.state import Replay, replay
from orchestrator.track.view import status_view
from tests.support.entries import START

Begin = Callable[..., Any]
NONE = [None, None, None]


# --- replay


def test_no_entries() -> None:
    state = replay("team", "stream", [])
    assert (state.status, state.driving.reason, state.head, state.config, state.tasks) == ("absent", None, None, {}, ())
    assert state.matrix("test") == [] and state.zero_shot == [] and state.stored_bytes == 0


@pytest.mark.parametrize(
    ("op", "body", "state", "reason"),
    [
        ("finish", {}, "finished", None),
        ("stop", {"reason": "too much"}, "stopped", "too much"),
        ("interrupt", {"reason": "interrupted by SIGINT"}, "interrupted", "interrupted by SIGINT"),
        ("fail", {"reason": "the loss is inf"}, "failed", "the loss is inf"),
        ("some_op_of_a_later_version", {}, "running", None),
    ],
)
def test_how_a_driver_left(fake_run: Begin, op: str, body: dict[str, str], state: str, reason: str | None) -> None:
    run = fake_run("a", "b")
    assert (run.state.status, run.state.driving.reason) == ("running", None)
    run.commit([0.5, 0.5])
    run.append(op, body)
    assert (run.state.status, run.state.driving.reason) == (state, reason)
    assert run.state.head == run.track.head()
    run.append("start", START)
    assert (run.state.status, run.state.driving.reason, len(run.state.commits)) == ("running", None, 1)


def test_a_log_is_replayed_as_it_grows(fake_run: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each entry as if the log had been read whole, and no entry is taken twice."""
    run = fake_run("a", "b")
    run.append("start", START)
    run.append("renew", {"lease": 3, "progress": {"index": 0, "phase": "train", "step": 1, "total_steps": 2}})
    run.commit([0.5, 0.5])
    run.append("abort", {"prefixes": ["elsewhere"]})
    run.append("commit", {**run.state.commits[0].body(), "version": 2, "prefix": "elsewhere"})
    run.append("fail", {"lease": 1, "reason": "taken over from"})
    run.append("delete", {"versions": [1], "prefixes": ["p"]})
    run.append("finish")
    entries, growing = run.track.entries(), Replay("default", "stream")
    whole = [replay("default", "stream", entries[:end]) for end in range(len(entries) + 1)]
    taken: list[int] = []
    monkeypatch.setattr(Counting, "__call__", lambda self, entry: taken.append(entry.seq) or counts(self, entry))
    assert [growing(entries[:end]) for end in range(len(entries) + 1)] == whole
    assert taken == [entry.seq for entry in entries]
    others = fake_run("a", name="others").track.entries()
    assert growing(others) == replay("default", "stream", others) and growing(entries) == whole[-1]


counts = Counting.__call__


def test_tasks_appended_to_a_finished_run(fake_run: Begin) -> None:
    run = fake_run("a")
    run.commit([0.5])
    run.append("finish")
    run.open(["a", "b"])
    state = run.state
    assert (state.status, len(state.tasks), len(state.commits)) == ("running", 2, 1)
    assert state.matrix("test") == [[0.5, None], [None, None]]
    assert state.zero_shot == [0.0, None]


def test_commits_keep_their_time_and_order(fake_run: Begin) -> None:
    run = fake_run("a", "b")
    run.commit([0.5, 0.0], parameters=10)
    run.commit([0.5, 0.5], parameters=20)
    state = run.state
    assert [commit.task for commit in state.commits] == ["a", "b"]
    assert [commit.time for commit in state.commits] == [entry.time for entry in run.track.entries()[2:]]
    assert state.reference(state.commits[1]) == "default/stream@v2"
    assert state.active_parameters == 30 and state.stored_bytes == 2000


# --- matrices and status


@pytest.fixture
def two_of_three(fake_run: Begin) -> Any:
    """Validation splits have 10 rows a task, test splits 20."""
    run = fake_run("a", "b", "c")
    run.commit([0.9, 0.2, 0.1], [0.8, 0.25, 0.5], zero_shot=[0.5, 0.05, 0.5])
    run.commit([0.7, 0.6, 0.3], [0.7, 0.6, 0.5])
    return run


def test_matrices(two_of_three: Any) -> None:
    state = two_of_three.state
    assert state.matrix("validation") == [[0.9, 0.2, 0.1], [0.7, 0.6, 0.3], NONE]
    assert state.matrix("test") == [[0.8, 0.25, 0.5], [0.7, 0.6, 0.5], NONE]
    assert state.zero_shot == [0.5, 0.05, 0.5]
    assert state.metrics("test") == pytest.approx(
        {
            "aa": 0.65,  # (0.7 + 0.6) / 2
            "aa_micro": 0.65,  # the two test splits are of one size
            "bwt": -0.1,  # 0.7 − 0.8
            "forgetting": 0.1,
            "fwt": 0.2,  # 0.25 − 0.05
            "learning_accuracy": 0.7,  # (0.8 + 0.6) / 2
        }
    )


def test_status_is_what_the_design_promises(two_of_three: Any) -> None:
    shown = json.loads(json.dumps(status_view(two_of_three.state), allow_nan=False))
    assert shown == status_view(two_of_three.state)
    promised = {"name", "state", "tasks", "matrix", "validation_matrix", "zero_shot", "metrics"}
    assert shown.keys() == promised | {
        "team",
        "reason",
        "driver",
        "progress",
        "time_left_s",
        "spent",
        "validation_metrics",
        "intervals",
        "half_widths",
        "losses",
        "decisions",
    }
    assert (shown["name"], shown["team"], shown["state"], shown["reason"]) == ("stream", "default", "running", None)
    for matrix in (shown["matrix"], shown["validation_matrix"]):
        assert [len(row) for row in matrix] == [3, 3, 3]  # T × T
    assert shown["matrix"][2] == NONE and shown["zero_shot"] == [0.5, 0.05, 0.5]
    accuracies = {"aa", "aa_micro", "bwt", "forgetting", "fwt", "learning_accuracy"}
    assert shown["metrics"].keys() == accuracies | {"active_parameters", "stored_bytes"}
    assert shown["validation_metrics"].keys() == accuracies
    assert (shown["metrics"]["active_parameters"], shown["metrics"]["stored_bytes"]) == (200, 2000)
    assert shown["metrics"]["aa"] == pytest.approx(0.65) and shown["validation_metrics"]["aa"] == pytest.approx(0.65)


def test_status_of_tasks(two_of_three: Any) -> None:
    def states() -> list[str]:
        return [task["state"] for task in status_view(two_of_three.state)["tasks"]]

    assert states() == ["done", "done", "running"]
    first, _, last = status_view(two_of_three.state)["tasks"]
    common = {"name", "state", "labels", "rows"}
    assert last.keys() == common
    assert first.keys() == common | {
        "ref", "version", "active_parameters", "stored_bytes", "overlap", "occupancy", "budget", "cost",
    }  # fmt: skip
    assert (first["ref"], first["version"], first["name"]) == ("default/stream@v1", 1, "a")
    two_of_three.append("interrupt", {"reason": "Ctrl-C"})
    assert states() == ["done", "done", "pending"] and status_view(two_of_three.state)["reason"] == "Ctrl-C"


def test_status_before_the_first_task(fake_run: Begin) -> None:
    shown = status_view(fake_run("a", "b").state)
    assert shown["matrix"] == shown["validation_matrix"] == [[None, None], [None, None]]
    assert shown["zero_shot"] == [None, None]
    assert set(shown["validation_metrics"].values()) == {None}
    assert [task["state"] for task in shown["tasks"]] == ["running", "pending"]


# --- what a driver at work says


def test_progress_is_that_of_the_last_renewal(fake_run: Begin) -> None:
    run = fake_run("a", "b")
    assert run.state.driving.progress is None and run.state.time_left_s is None
    at = {"index": 0, "phase": "train", "step": 3, "total_steps": 9}
    run.append("renew", {"progress": at})
    run.append("promote", {"alias": "production", "version": 1, "expect": 0})
    shown = status_view(run.state)
    assert shown["progress"] == at and shown["driver"]["lease_s"] == 0.2
    heard = run.state.driving.heard
    assert heard and shown["driver"]["heard"] == heard.time and heard.op == "renew"
    run.commit([0.5, 0.5])
    assert run.state.driving.progress is None


def test_time_left_is_by_training_rows(fake_run: Begin) -> None:
    run = fake_run("a", "b", "c")  # 40 rows each; a commit says 1.5 s of training and 0.5 s of evaluation
    run.commit([0.5, 0.1, 0.1])
    assert run.state.time_left_s == pytest.approx(4.0)
    run.commit([0.5, 0.5, 0.1])
    assert run.state.time_left_s == pytest.approx(2.0)
    run.commit([0.5, 0.5, 0.5])
    assert run.state.time_left_s == 0
