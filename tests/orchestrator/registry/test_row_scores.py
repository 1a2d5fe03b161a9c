"""Row scores of a run: those after each task, of its own tasks alone; what is not kept says how it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import ConfigError, IntegrityError
from orchestrator.registry.pull import pull
from orchestrator.registry.row_scores import row_scores
from orchestrator.run.controller import Controller
from orchestrator.run.fork import plan_fork
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray
from trainers.data.row_scores import ROWS


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def done(store: Path, tasks: str = "abc", *, fork: Any = None, keep: bool = True, **sections: Any) -> Controller:
    evaluate = {"keep_rows": keep, **sections.pop("evaluate", {})}
    config = run_config(store, tasks, evaluate=evaluate, **sections)
    made = Controller(config, Told(), fork, FakeWorkers(config, accuracy={0: 0.25, 1: 0.5, 2: 0.75}))
    made.run()
    return made


def test_rows_after_each_task(tmp_path: Path) -> None:
    run = done(tmp_path, evaluate={"tasks": "seen"})
    last = row_scores(run.track)
    assert [*last] == ["a", "b", "c"] and {each.learned for each in last.values()} == {3}
    assert [each.values.mean() for each in last.values()] == run.state.matrix("test")[2] == [0.25, 0.5, 0.75]
    assert [*row_scores(run.track, learned=1)] == ["a"]
    validation = row_scores(run.track, "validation", learned=2)
    assert [len(each.values) for each in validation.values()] == [10, 10]
    np.testing.assert_array_equal(validation["a"].rows, np.arange(10))


def test_of_the_untrained_model(tmp_path: Path) -> None:
    run = done(tmp_path)
    assert [*row_scores(run.track, learned=0)] == ["a", "b", "c"]
    assert row_scores(run.track, "validation", learned=0) == {}, "it was scored on test splits alone"


def test_a_fork_has_its_own_tasks(tmp_path: Path) -> None:
    source = done(tmp_path, "abc")
    fork = done(tmp_path, "axy", fork=plan_fork(source.track, 2), name="fork")
    assert [*row_scores(fork.track, learned=1)] == ["a"] and [*row_scores(fork.track)] == ["a", "x", "y"]


def test_what_is_not_there_says_how_it_is_kept(tmp_path: Path) -> None:
    run = done(tmp_path, "ab", keep=False)
    with pytest.raises(
        ConfigError, match=r"default/stream: no row scores .* default/stream@v2; set evaluate\.keep_rows"
    ):
        row_scores(run.track)
    with pytest.raises(ConfigError, match="has learned 2 tasks; there are no scores after 3"):
        row_scores(run.track, learned=3)
    run = done(tmp_path, "abc")  # harmless to change between two starts
    assert [*row_scores(run.track)] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="default/stream@v1; set"):
        row_scores(run.track, learned=1)


def test_rows_stay_in_the_store(tmp_path: Path) -> None:
    run = done(tmp_path / "store", "a")
    commit = run.state.commits[0]
    assert ROWS in [record["path"] for record in run.track.manifest_of(commit)["files"]]
    pull(run.track, {"": commit}, tmp_path / "pulled")
    assert not (tmp_path / "pulled" / ROWS).exists()
    (tmp_path / "store" / commit.prefix / ROWS).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=ROWS):
        row_scores(run.track)
