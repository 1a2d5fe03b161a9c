"""`orthoplex logs`: a line per event, for people and as JSON, until the driver leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import logs
from tests.support.begun_sweeps import TRIALS_DONE, begun
from tests.support.command_line import Orthoplex
from tests.support.entries import START
from tests.support.sweeps import in_store

PROGRESS = {"progress": {"index": 1, "phase": "train", "step": 4, "total_steps": 9}}


def test_lines_and_json(orthoplex: Orthoplex, fake_run: Any) -> None:
    run = fake_run("a", "b")
    run.append("renew")
    run.commit([0.5, 0.5])
    run.append("ballad")
    run.append("renew", PROGRESS)
    code, out, err = orthoplex("logs", "stream", "--store", run.root)
    assert (
        code == 0
        and err
        == "note: entry 5 is an entry (ballad) of a newer Orthoplex, which this one does not know; upgrade to read it\n"
    )
    lines = [line[21:] for line in out.splitlines()]
    assert lines[1].startswith("is to learn 2 tasks") and lines[2].startswith("a: committed as v1")
    assert lines[3:] == ["alive: b: train 4/9"]  # the newest sign of life alone
    assert len(orthoplex("logs", "stream", "--store", run.root, "-v").out.splitlines()) == 5
    shown = json.loads(orthoplex("logs", "stream", "--store", run.root, "--json").out)
    assert [each["op"] for each in shown] == ["start", "open", "renew", "commit", "ballad", "renew"]
    assert (shown[3]["seq"], shown[3]["task"]) == (4, "a")
    out = orthoplex("logs", "stream", "--store", run.root, "--task", "b").out
    assert [line[21:] for line in out.splitlines()] == ["alive: b: train 4/9"]
    code, _, err = orthoplex("logs", "stream", "--store", run.root, "--task", "c")
    assert code == 2 and "no such task; it has a, b" in err


def test_a_sweep_has_a_log_too(orthoplex: Orthoplex, tmp_path: Path) -> None:
    begun(in_store(str(tmp_path / "store")), TRIALS_DONE, "interrupt", "interrupted by SIGINT")
    code, out, _ = orthoplex("logs", "s", "--store", tmp_path / "store")
    assert code == 0 and "trial 4 failed: the loss is nan" in out
    assert "default/s is a sweep" in orthoplex("status", "s", "--store", tmp_path / "store").err
    assert orthoplex("logs", "other/s", "--store", tmp_path / "store").code == 2


def test_following_until_the_driver_leaves(
    orthoplex: Orthoplex, fake_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run("a")
    run.append("start", {**START, "lease_s": 600})
    steps = iter([lambda: run.append("renew"), lambda: None, lambda: run.append("finish")])
    monkeypatch.setattr(logs.time, "sleep", lambda seconds: next(steps)())
    code, out, _ = orthoplex("logs", "stream", "--store", run.root, "--follow", "--json")
    assert code == 0 and [json.loads(line)["op"] for line in out.splitlines()] == [
        "start", "open", "start", "renew", "finish",
    ]  # fmt: skip
    assert next(steps, None) is None


def test_a_driver_that_is_silent_is_not_waited_for(orthoplex: Orthoplex, fake_run: Any) -> None:
    run = fake_run("a")
    run.append("start", {**START, "lease_s": 0})
    code, _, err = orthoplex("logs", "stream", "--store", run.root, "--follow")
    assert code == 0 and "it may be gone" in err
