"""A watch tells the reporter where a task stands, logs its workers, and counts failures in a row."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.resources import ClusterConfig
from orchestrator.run import watch as watched
from orchestrator.run.driver_log import RunLog
from orchestrator.run.watch import REAP_S, Watch
from orchestrator.track.events import Position
from tests.support.fake_workers import Told
from tests.support.registries import folder_track
from trainers.messages import Progress, Started


class Clock:
    """Stands in for `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watched, "time", made)
    return made


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    made = RunLog(folder_track(tmp_path))
    made.take({}, 120, lambda _: None)
    return made


def watch_of(log: RunLog, workers: object = 2) -> tuple[Watch, Told]:
    told = Told()
    return Watch("a", ClusterConfig.model_validate({"num_workers": workers}), told, log), told


def resumed(step: int) -> Progress:
    return Progress(0, "resume", step, 9)


def test_workers_are_logged_with_the_seconds_they_took(log: RunLog, clock: Clock) -> None:
    watch, told = watch_of(log)
    watch(Started(2, 1003.5, {"base": 1.25}))
    assert log.track.entries()[-1].body == {"workers": 2, "seconds": {"workers": 3.5, "base": 1.25}, "lease": 1}
    assert watch.workers == 2 and told.lines == []


def test_how_many_came_is_said_if_it_was_open(log: RunLog, clock: Clock) -> None:
    watch, told = watch_of(log, {"min": 1, "max": 4})
    assert watch.workers == 4
    watch(Started(3, 1001.0, {}))
    assert watch.workers == 3 and told.lines == ["3 workers are training"]


def test_progress_is_shown_and_is_what_a_renewal_says(log: RunLog, clock: Clock) -> None:
    watch, told = watch_of(log)
    watch(step := Progress(1, "train", 4, 9))
    assert told.steps == [("a", step)]
    assert log.progress == Position(index=1, phase="train", step=4, total_steps=9)
    assert "functional" not in log.progress.body()
    watch(replace(step, functional=0.25))
    assert log.progress is not None and log.progress.functional == 0.25


def test_failures_count_until_the_task_gets_further(log: RunLog, clock: Clock) -> None:
    watch, _ = watch_of(log)
    for step, failures in ((0, 1), (0, 2), (4, 0), (4, 1), (3, 2), (5, 0)):
        if failures:
            watch.broke()
        watch(resumed(step))
        assert watch.failures == failures, step


def test_a_long_wait_is_looked_into_and_spoken_of_once(
    log: RunLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(watched, "reap", lambda: looks.append(clock.now))
    monkeypatch.setattr(watched, "reserved", dict)
    for name in ("cluster_resources", "available_resources"):
        monkeypatch.setattr(f"ray.{name}", lambda: {"CPU": 1.0})
    watch, told = watch_of(log)
    for _ in range(200):  # each second for 200 s
        clock.now += 1
        watch(None)
    assert len(looks) == 18  # more than REAP_S pass between two: 200 // 11
    assert min(later - look for look, later in pairwise(looks)) > REAP_S
    assert len(told.lines) == 1 and told.lines[0].startswith("still waiting for workers: ")
    watch(Started(2, clock.now, {}))
    clock.now += 100
    watch(None)
    assert len(looks) == 18  # nothing is waited for any more
