"""A joint training: one order, one commit, the whole matrix row; and what cannot be asked of it."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, Interrupted
from orchestrator.console.run import print_status
from orchestrator.registry.catalog import rows_of
from orchestrator.registry.row_scores import row_scores
from orchestrator.registry.verify import verify
from orchestrator.run.controller import Controller
from orchestrator.run.evaluation import Size, cost
from orchestrator.run.fork import plan_fork
from orchestrator.run.plan import planned_steps
from orchestrator.run.tracking import accuracies, summary
from orchestrator.track.view import status_view
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray

ACCURACY = {0: 0.4, 1: 0.6, 2: 0.8}
ROWS = {"a": 40, "b": 40, "c": 40}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def joint(
    store: Path, tasks: str = "abc", *, fork: Any = None, raises: Any = None, **sections: Any
) -> tuple[Controller, FakeWorkers]:
    train = {"joint": True, **sections.pop("train", {})}
    config = run_config(store, tasks, train=train, **sections)
    workers = FakeWorkers(config, raises or {}, accuracy=ACCURACY, trained_rows=ROWS)
    return Controller(config, Told(), fork, workers), workers


def test_one_order_and_one_commit_for_all_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, workers = joint(tmp_path, evaluate={"labels": "both", "keep_rows": True})
    run.run()
    (order,), (commit,) = workers.orders, run.state.commits
    assert (order.index, [*order.test], [*order.validation], order.zero_shot) == (2, [0, 1, 2], [0, 1, 2], True)
    assert (commit.version, commit.task, commit.trained_rows) == (3, "joint", ROWS)
    view: Any = status_view(run.state)
    assert view["state"] == "finished" and view["matrix"] == [[None] * 3, [None] * 3, [0.4, 0.6, 0.8]]
    assert [task["state"] for task in view["tasks"]] == ["done"] * 3
    assert {task["ref"] for task in view["tasks"]} == {"default/stream@v3"}
    found = view["metrics"]
    assert found["aa"] == found["learning_accuracy"] == pytest.approx(0.6)
    assert [found[key] for key in ("bwt", "forgetting", "fwt")] == [None] * 3
    assert view["half_widths"]["learning_accuracy"] == view["half_widths"]["aa"] is not None
    assert view["union"]["metrics"]["aa"] == view["union"]["metrics"]["learning_accuracy"] == pytest.approx(0.3)
    assert "metrics_after" not in view and view["time_left_s"] in (None, 0)
    print_status(run.state)
    shown = capsys.readouterr().out
    assert run.state.of_other_rows("test") == []
    assert (
        "finished, 3 of 3 tasks" in shown and "all tasks at once" in shown and "60.0" in shown and "joint" not in shown
    )
    assert [*row_scores(run.track)] == ["a", "b", "c"]
    (listed,) = rows_of("default/stream", run.track.entries())
    assert listed["average_accuracy"] == pytest.approx(0.6) and verify(run.track).faults == []
    assert summary(run.state)["aa/test"] == pytest.approx(0.6) and accuracies(run.state)["b"]["accuracy/test"] == 0.6


def test_it_is_done_once(tmp_path: Path) -> None:
    joint(tmp_path)[0].run()
    run, workers = joint(tmp_path)
    run.run()
    assert workers.orders == [] and run.state.status == "finished"


def test_a_driver_that_was_cut_goes_on(tmp_path: Path) -> None:
    """The checkpoint's identity knows all tasks' data."""
    run, workers = joint(tmp_path, raises={2: [Interrupted("leaving")]})
    with pytest.raises(Interrupted):
        run.run()
    again, after = joint(tmp_path)
    again.run()
    assert after.orders[0].identity == workers.orders[0].identity
    other = FakeWorkers(again.config, data={"a": "e" * 64})
    changed = Controller(again.config.model_copy(update={"name": "other"}), Told(), workers=other)
    changed.run()
    assert other.orders[0].identity["fingerprint"] != after.orders[0].identity["fingerprint"]


def test_nothing_can_follow_or_be_changed(tmp_path: Path) -> None:
    run, _ = joint(tmp_path)
    run.run()
    with pytest.raises(
        ConfigError,
        match=r"tasks: had 3, now 4; train\.joint has trained them at once\nPut .* `name`, without",
    ):
        joint(tmp_path, "abcd")[0].run()
    config = run_config(tmp_path, "abc")
    with pytest.raises(
        ConfigError, match=r"(?s)train\.joint: was True, is now False, which .*  --set train.joint=true\n"
    ):
        Controller(config, Told(), workers=FakeWorkers(config)).run()
    with pytest.raises(ConfigError, match=r"--fork: default/stream learned all its tasks at once"):
        plan_fork(run.track, None)


def test_it_begins_from_the_base(tmp_path: Path) -> None:
    config = run_config(tmp_path, "abc", name="source")
    source = Controller(config, Told(), workers=FakeWorkers(config))
    source.run()
    with pytest.raises(ConfigError, match=r"train\.joint: all tasks are trained at once, from the base; leave --fork"):
        joint(tmp_path, fork=plan_fork(source.track, 2))[0].run()


def test_what_it_costs() -> None:
    config = run_config(
        Path("store"), "abc", train={"joint": True, "epochs": 2, "batch_size": 10}, evaluate={"tasks": "seen"}
    )
    sizes = [Size(40, 5, 10, 0), Size(60, 5, 10, 0), Size(100, 5, 10, 0)]
    assert planned_steps(config, [40, 60, 100]) == [0, 0, 40]
    assert cost(config, sizes)["trained_rows"] == 400 and cost(config, sizes)["passes"] == 6
    replay = run_config(Path("store"), "abc", train={"replay": {"share": 0.1}, "epochs": 1, "batch_size": 10})
    assert planned_steps(replay, [40, 60, 100]) == [4, 7, 11] and cost(replay, sizes)["trained_rows"] == 40 + 64 + 110
