"""Kept answers to a task's rows, in order, from versions, forks and sparse runs; and what is said if there are none."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, IntegrityError
from orchestrator.registry.gc import Collector
from orchestrator.registry.publish import publish
from orchestrator.registry.samples import Given, samples, striking
from orchestrator.registry.verify import verify
from orchestrator.run.controller import Controller
from orchestrator.run.fork import plan_fork
from orchestrator.track.events import Learned
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from tests.support.answering import done, generative, says
from tests.support.fake_workers import FakeWorkers, Told, without_ray
from trainers.data.answers import ANSWERS, KeptAnswer, write_answers


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def test_a_row_before_and_after_each_task(tmp_path: Path) -> None:
    run = done(generative(tmp_path))
    found = samples(run.track, run.state, "b")
    assert [each.row for each in found] == [0, 1, 2]
    first = found[0]
    assert (first.task, first.prompt, first.references) == ("b", "b, row 0?", ("yes", "no"))
    after, refs = [None, *"abc"], [None, *(f"default/stream@v{n}" for n in (1, 2, 3))]
    assert first.answers == tuple(
        Given(
            learned=n, after=after[n], ref=refs[n], answer=f"b0 after {n}",
            metrics={"rouge_l": pytest.approx(1 - 0.1 * n), "nll": 2.0},
        )
        for n in range(4)
    )  # fmt: skip
    assert [*first.answers[0].metrics] == ["rouge_l", "nll"]
    assert verify(run.track).faults == []


def test_what_was_not_scored_was_not_answered(tmp_path: Path) -> None:
    run = done(generative(tmp_path, "abcd", evaluate={"keep_answers": 3, "tasks": "seen", "every": 3}))
    learned = {name: [each.learned for each in samples(run.track, run.state, name)[0].answers] for name in "abcd"}
    assert learned == {"a": [1, 3, 4], "b": [2, 3, 4], "c": [3, 4], "d": [4]}


def test_a_fork_has_no_answers_to_tasks_of_its_source(tmp_path: Path) -> None:
    """Its third task has the name of one of the source's, whose answers lie in the files that it copied."""
    source = done(generative(tmp_path))
    given = generative(tmp_path, name="other", train={"learning_rate": 0.5})
    fork = Controller(given, Told(), plan_fork(source.track, 3), FakeWorkers(given, says=says))
    state = fork.run()
    assert [each.learned for each in samples(fork.track, state, "c")[0].answers] == [3]
    assert [each.learned for each in samples(fork.track, state, "a")[0].answers] == [0, 1, 2, 3]


def test_a_deleted_version_has_none(tmp_path: Path) -> None:
    run = done(generative(tmp_path))
    Collector(run.track, timedelta(0)).delete(3, "test")
    state = type(run.log)(run.track).state
    assert [each.learned for each in samples(run.track, state, "a")[0].answers] == [0, 1, 2]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    run = done(generative(tmp_path))
    (tmp_path / run.state.commits[1].prefix / ANSWERS).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=ANSWERS):
        samples(run.track, run.state, "a")


@pytest.mark.parametrize(
    ("names", "task", "sections", "said"),
    [
        ("abc", "aa", {}, r"--task 'aa': default/stream has no such task; did you mean 'a'\?"),
        ("abc", "zzz", {}, r"--task 'zzz': default/stream has no such task; it has a, b, c"),
        ("abx", "x", {}, r"one of its label words, and .*; default/stream generates those to a, b"),
        ("x", "x", {}, r"only generated answers are kept; default/stream has no generative task"),
        ("ab", "a", {"evaluate": {"keep_answers": 0}}, r"keeps no answers to it; set evaluate\.keep_answers above 0"),
    ],
)
def test_no_answers(tmp_path: Path, names: str, task: str, sections: dict[str, Any], said: str) -> None:
    run = done(generative(tmp_path, names, **sections))
    with pytest.raises(ConfigError, match=said):
        samples(run.track, run.state, task)


def test_a_trial_of_a_sweep_has_not_scored_its_test_splits(tmp_path: Path) -> None:
    run = done(generative(tmp_path, "a"))
    commits = tuple(commit.model_copy(update={"test": (), "zero_shot": ()}) for commit in run.state.commits)
    with pytest.raises(ConfigError, match="a trial of a sweep is scored on validation splits alone"):
        samples(run.track, replace(run.state, commits=commits), "a")


def test_a_run_of_before_keeps_answers_from_now_on(tmp_path: Path) -> None:
    """Its first versions have no such file. The configuration as it is stored does not change."""
    before = generative(tmp_path, "ab", evaluate={})
    Controller(before, Told(), workers=FakeWorkers(before)).run()
    run = done(generative(tmp_path, "abc", evaluate={}))
    assert "evaluate" not in run.state.config
    assert [each.learned for each in samples(run.track, run.state, "a")[0].answers] == [3]
    assert [*striking(run.track, run.state, 2)] == []


def test_the_rows_that_changed_most(tmp_path: Path) -> None:
    run = done(generative(tmp_path, "axbc"))
    first, second = striking(run.track, run.state, 2)
    assert (first.task, first.row, second.task, second.row) == ("a", 1, "b", 1)
    assert [each.learned for each in first.answers] == [1, 2, 3, 4] and [e.learned for e in second.answers] == [3, 4]
    assert first.change(1) == pytest.approx(-0.9)
    assert len([*striking(run.track, run.state, 1)]) == 1


def test_a_single_task_is_compared_with_the_untrained_model(tmp_path: Path) -> None:
    run = done(generative(tmp_path, "a"))
    (only,) = striking(run.track, run.state, 2)
    assert [each.after for each in only.answers] == [None, "a"]


def test_a_track_of_published_versions(tmp_path: Path) -> None:
    run = done(generative(tmp_path))
    track = Track(run.store, "default", "copy")
    folder = tmp_path / "made"
    folder.mkdir()
    mine = KeptAnswer(task="a", row=4, learned=1, prompt="p", references=(), answer="r", metrics={"own": 0.5})
    write_answers(folder / ANSWERS, [mine])
    publish(track, folder, Learned(task="a", test=run.state.commits[0].test[:1]), {})
    state = replay("default", "copy", track.entries())
    (found,) = samples(track, state, "a")
    assert found.answers[0].metrics == {"own": 0.5} and found.answers[0].ref == "default/copy@v1"
