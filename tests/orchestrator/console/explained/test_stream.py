"""A run explained in the order of its stream, as people and as programs read it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import GuardStop, Interrupted
from cluster.storage import open_store
from orchestrator.run.controller import Controller
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from tests.support.command_line import here
from tests.support.fake_workers import MODULES, FakeWorkers, Told, run_config, without_ray
from trainers.messages import Lost
from trainers.workers.group import WorkersLost

Said = Callable[..., str]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """What `explain stream` prints."""

    def say(*words: str) -> str:
        code, out, err = here(monkeypatch, capsys, "explain", "stream", *words, "--store", tmp_path)
        assert (code, err) == (0, "")
        return out

    return say


def run(store: Path, tasks: str = "ab", *, raises: Any = None, decides: bool = True, **sections: Any) -> Controller:
    config = run_config(store, tasks, **sections)
    made = Controller(config, Told(), workers=FakeWorkers(config, raises=raises or {}, decides=decides))
    made.run()
    return made


def interrupted(store: Path) -> None:
    """One of three tasks is committed; a guard passed, and the second task was halved before it was interrupted."""
    met = [WorkersLost(Lost("out_of_memory", "no room for 4 bytes")), Interrupted("interrupted by SIGINT")]
    halve = {"batch_size": 16, "on_out_of_memory": "halve"}
    with pytest.raises(Interrupted):
        run(store, "abc", raises={1: met}, train=halve, guards={"min_average_accuracy": 0.1})


def test_decisions_in_the_order_of_the_stream(tmp_path: Path, said: Said) -> None:
    interrupted(tmp_path)
    lines = said().splitlines()
    places = [
        next(i for i, line in enumerate(lines) if words in line)
        for words in (
            "default/stream: a dimension stays while |g| > τ.", "a (default/stream@v1)",
            "  2 layers kept 1 of 2 dimensions each.", "│ layer.0.dense │ 2 → 1       │ 0.200 → 0.500 │ ",
            "  v1: go on, since ", "  b: halve, since ", "interrupted, nothing is decided yet about 2 tasks (b, c)",
        )
    ]  # fmt: skip
    assert places == sorted(places) and places[-1] == len(lines) - 1
    assert "guards.min_average_accuracy" in lines[places[4]] and lines[places[5]][:2] == "20"


def test_of_a_task_that_is_not_committed(tmp_path: Path, said: Said) -> None:
    interrupted(tmp_path)
    text = said("--task", "b")
    assert "b: halve, since" in text and "about 1 task (b)" in text and "v1" not in text
    assert "nothing is decided yet" in said("--task", "c") and "halve" not in said("--task", "c")


def test_what_a_guard_stopped(tmp_path: Path, said: Said) -> None:
    """It is no version, and is explained all the same."""
    with pytest.raises(GuardStop):
        run(tmp_path, guards={"min_average_accuracy": 0.9})
    lines = said().splitlines()
    (title,) = (i for i, line in enumerate(lines) if line == "a (quarantined, would be default/stream@v1)")
    assert any("2 layers kept 1 of 2 dimensions each." in line for line in lines[title:])
    assert any("  v1: stop, since " in line for line in lines[title:])
    assert lines[-1] == "stopped, nothing is decided yet about 1 task (b)"
    (part,) = json.loads(said("--json"))
    assert part["decided"]["quarantined"] and len(part["decided"]["modules"]) == 6


def test_one_layer(tmp_path: Path, said: Said) -> None:
    run(tmp_path)
    text = said("--module", MODULES[1], "--task", "b")
    assert (
        "  layer.1.dense kept 1 of 2 dimensions: τ began at 0.200 and ended at 0.500; 1 dimension had |g| at or below "
        "it, it fell after step 2 and by step 6 of 6, when the loss was 0.250.\n" in text
    )
    assert "12.5% of what its adapter writes lies in what earlier tasks write" in text
    assert "│    6 │ 0.250 │ 0.500 │     0.250 │      0.250 │       0.750 │  1 │" in text and "layer.0" not in text


def test_a_name_of_no_layer_is_refused_before_anything_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    code, out, err = here(monkeypatch, capsys, "explain", "stream", "--module", "nosuch", "--store", tmp_path)
    assert (code, out) == (2, "") and "--module 'nosuch': no adapted layer is called so" in err


def test_full_budgets_come_with_what_to_set(tmp_path: Path, said: Said) -> None:
    """Also of a run from before decisions were kept; a part of the layers says as much."""
    without = {"adapter": {"target_modules": ["dense"], "threshold": 0.1}}
    with pytest.raises(Interrupted):
        run(tmp_path, raises={1: [Interrupted("interrupted")]}, decides=False, **without)
    track = Track(open_store(str(tmp_path)), "default", "stream")
    text = said()
    assert "note: default/stream@v1: told from training logs and commits" in text and "To change" not in text
    (commit,) = replay("default", "stream", track.entries()).commits
    assert commit.decisions_sha256 is None
    full = {name: {"rank": 2, "max_rank": 2, "tau": 0.1} for name in MODULES}
    second = commit.model_copy(update={"version": 2, "budget": full, "index": 1, "task": "b"})
    track.append(second, after=track.head())
    text = said()
    assert text.count("To change that, begin another run") == 1 and "  --set adapter.threshold=" in text


def test_as_json(tmp_path: Path, said: Said) -> None:
    interrupted(tmp_path)
    a, b = json.loads(said("--json", "--module", "layer.0"))
    assert (a["task"], a["decided"]["ref"], a["decided"]["recorded"]) == ("a", "default/stream@v1", True)
    assert [(each["module"], each["decision"]) for each in a["decided"]["modules"]] == [
        ("layer.0.dense", kind) for kind in ("budget", "protection", "capacity")
    ]
    assert [each["verdict"] for each in a["decided"]["run"]] == ["go_on"] and [*a["budget"]] == ["layer.0.dense"]
    assert b["task"] == "b" and b["budget"] == b["training"] == {} and b["decided"]["ref"] is None
    assert [each["rule"] for each in b["decided"]["run"]] == ["train.on_out_of_memory"]


def test_methods_without_a_budget(tmp_path: Path, said: Said) -> None:
    run(tmp_path, "a", decides=False, adapter={"method": "lora", "target_modules": ["dense"]})
    text = said()
    assert "adapter.method lora gives every layer its rank; there is no budget that a layer chooses." in text
    assert "│ layer.1.dense │ 1    │" in text and "τ" not in text


def test_a_task_in_training(fake_run: Any, monkeypatch: Any, capsys: Any) -> None:
    begun = fake_run("a", "b", "c")
    begun.commit([0.5])
    begun.append("renew", {"progress": {"index": 1, "phase": "train", "step": 3, "total_steps": 9}})
    code, out, _ = here(monkeypatch, capsys, "explain", "stream", "--store", begun.root)
    assert code == 0 and out.splitlines()[-4:] == [
        "", "b: train 3/9; its budgets are decided when its training ends", "",
        "running, nothing is decided yet about 1 task (c)",
    ]  # fmt: skip
