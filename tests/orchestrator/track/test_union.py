"""Scores among the labels of all tasks learned: beside the others in log, status and screens, and read by no guard."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.console.run import print_status
from orchestrator.run.controller import Controller
from orchestrator.run.fork import plan_fork
from orchestrator.track.union import union_matrix, union_metrics
from orchestrator.track.view import status_view
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray

BOTH = {"labels": "both"}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def done(store: Path, tasks: str = "abc", fork: Any = None, **sections: Any) -> Controller:
    config = run_config(store, tasks, **sections)
    run = Controller(config, Told(), fork, FakeWorkers(config, accuracy={0: 0.4, 1: 0.6, 2: 0.8}))
    run.run()
    return run


def test_a_second_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 20 test rows 8, 12 and 16 are right, and half of them among all labels."""
    run = done(tmp_path, evaluate=BOTH)
    view: Any = status_view(run.state)
    assert view["union"]["matrix"] == [[0.2, None, None], [0.2, 0.3, None], [0.2, 0.3, 0.4]]
    assert view["union"]["metrics"] == {
        "aa": pytest.approx(0.3), "aa_micro": pytest.approx(0.3), "bwt": 0.0, "forgetting": 0.0,
        "learning_accuracy": pytest.approx(0.3),
    }  # fmt: skip
    assert view["metrics"]["aa"] == pytest.approx(0.6), "the first matrix is as without"
    print_status(run.state)
    shown = capsys.readouterr().out
    assert "AA among all tasks' labels" in shown and "30.0 points" in shown
    manifest = run.track.manifest_of(run.state.commits[1])
    assert [score["correct"] for score in manifest["metrics"]["union"]] == [4, 6]


def test_nothing_of_it_if_nobody_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = done(tmp_path)
    assert "union" not in status_view(run.state)
    for entry in run.track.entries():
        assert "union" not in entry.body
    assert "union" not in run.track.manifest_of(run.state.commits[0])["metrics"]
    print_status(run.state)
    assert "labels" not in capsys.readouterr().out


def test_it_may_change_between_two_starts(tmp_path: Path) -> None:
    done(tmp_path, "a")
    done(tmp_path, "ab", evaluate=BOTH)
    run = done(tmp_path, "abc")
    commits, rows = run.state.commits, [20] * 3
    assert union_matrix(commits, 3) == [[None] * 3, [0.2, 0.3, None], [None] * 3]
    assert union_metrics(commits, rows)["aa"] == pytest.approx(0.25), "after the last task that was scored so"
    assert union_metrics(commits, rows)["bwt"] is None and run.state.status == "finished"


def test_rows_of_other_counts_are_not_compared(tmp_path: Path) -> None:
    done(tmp_path, "ab", evaluate=BOTH)
    run = done(tmp_path, "abc", evaluate={**BOTH, "rows": 10})
    assert union_metrics(run.state.commits, [20] * 3)["bwt"] is None


def test_no_guard_reads_it(tmp_path: Path) -> None:
    run = done(tmp_path, evaluate=BOTH, guards={"min_average_accuracy": 0.35, "max_forgetting": 0.0})
    assert run.state.status == "finished"


def test_a_fork_takes_the_scores_of_its_tasks(tmp_path: Path) -> None:
    source = done(tmp_path, evaluate=BOTH)
    fork = done(tmp_path, "abx", plan_fork(source.track, 3), name="fork", evaluate=BOTH)
    assert union_matrix(fork.state.commits, 3)[1] == [0.2, 0.3, None]


def test_a_task_that_is_not_whole(tmp_path: Path) -> None:
    """Between whole rows the new task alone is scored, among all labels too."""
    run = done(tmp_path, evaluate={**BOTH, "every": 3, "tasks": "seen"})
    assert union_matrix(run.state.commits, 3) == [[0.2, None, None], [None, 0.3, None], [0.2, 0.3, 0.4]]
    assert union_metrics(run.state.commits[:2], [20] * 3)["aa"] == pytest.approx(0.2), "after the first task"
