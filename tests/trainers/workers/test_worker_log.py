"""Lines that a log collector can read."""

import io
import json
from typing import get_args

from trainers.messages import Event, Lost, Progress, Score, Started, TaskDone
from trainers.workers.worker_log import NAMES, WorkerLog


def test_every_event_has_a_name() -> None:
    assert {*NAMES} == {*get_args(Event)} and len({*NAMES.values()}) == len(NAMES)


def test_each_line_names_run_task_and_rank() -> None:
    stream = io.StringIO()
    log = WorkerLog("team/run", ["first", "second"], 3, stream)
    log.write(Started(4, 1.5, {"load": 2.0}))
    log.write(Progress(1, "train", 10, 30, 0.5))
    scores = [Score(1, 2)]
    log.write(TaskDone(0, "t/x", [], "b", {"m": {}}, 0.1, {}, [], 7, scores, scores, None, {"train_s": 3.0}))
    log.write(Lost("out_of_memory", "no room"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["started", "progress", "done", "lost"]
    assert [line["task"] for line in lines] == [None, "second", "first", None]
    assert {(line["run"], line["rank"]) for line in lines} == {("team/run", 3)}
    assert lines[1]["loss"] == 0.5 and lines[1]["overlap"] is None  # not measured yet: NaN, which JSON lacks
    assert lines[2]["cost"] == {"train_s": 3.0} and "budget" not in lines[2]
