"""A sweep end to end: real Ray Tune, a pool of workers, MiniLM and docstrings; killed, interrupted, gone on with."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.storage import LocalStore
from orchestrator.log.entry import Entry
from orchestrator.sweeps.sweep_state import sweep_log
from orchestrator.track.track import Track
from tests.support.tiny_run import call, called, config_file, following, hurried

WEIGHT, THRESHOLD = "adapter.orthogonality.weight", "adapter.threshold"


def sweep_file(folder: Path, store: Path) -> Path:
    """Four trials of two tasks: two thresholds, each with two weights, which agree on the first task."""
    content = {
        "name": "grid",
        "base": str(config_file(folder, 2, store)),
        "run": {
            "cluster": {"num_workers": 1},
            "train": {"checkpoint_steps": None},
            "adapter": {"orthogonality": {"weight": 5.0}},
        },
        "budget": {"trials": 9},
        "search": {
            "algorithm": "grid",
            "first": ["defaults"],
            "space": {THRESHOLD: {"choice": [0.9, 0.2]}, WEIGHT: {"choice": [5.0, 50.0]}},
        },
        "stopping": {"asha": None, "dominated": False},
        "concurrent": 2,
        "tracking": {"tensorboard": str(folder / "tensorboard")},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def interrupt(words: list[str], when: str) -> str:
    """Starts a sweep, ends it with Ctrl-C once it has said so, and gives what it said then."""
    with following(hurried("sweep", *words)) as (process, until):
        until(when)
        process.send_signal(signal.SIGINT)
        out, message = process.communicate(timeout=180)
        assert process.returncode == 130, out + message
        assert "Traceback" not in message and f"orthoplex sweep {words[0]}" in message, message
        return out


def logs(store: Path) -> tuple[list[Entry], dict[str, list[Entry]]]:
    """The sweep's log, and those of its trials' runs by name."""
    entries = sweep_log(LocalStore(store), "default", "grid").entries()
    runs = [entry.body["run"] for entry in entries if entry.op == "trial"]
    return entries, {run: Track(LocalStore(store), "default", run).entries() for run in runs}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Folder, store and result of a sweep that was interrupted before anything was trained, killed when a trial had
    finished, interrupted again, and gone on with."""
    folder = tmp_path_factory.mktemp("sweep")
    store = folder / "store"
    words = [str(sweep_file(folder, store)), "--output", str(folder / "out")]
    interrupt(words, "trial 1: ")
    with following(hurried("sweep", *words)) as (process, until):
        until(": finished")
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    entries = logs(store)[0]
    runs = {entry.body["number"]: entry.body["run"] for entry in entries if entry.op == "trial"}
    finished = [runs[entry.body["number"]] for entry in entries if entry.op == "outcome"]
    assert finished
    before = {run: [entry.sha256 for entry in logs(store)[1][run]] for run in finished}
    assert "recommended: trial" in interrupt(words, "1 of 2 tasks")  # a usable result
    last = called(hurried("sweep", *words, "--json"))
    assert last.returncode == 0, last.stdout + last.stderr
    after = {run: [entry.sha256 for entry in logs(store)[1][run]] for run in finished}
    assert after == before  # finished trials were not touched again
    return folder, store, json.loads(last.stdout)


def test_every_point_is_trained_once_to_its_end(swept: tuple[Path, Path, dict[str, Any]]) -> None:
    _, store, found = swept
    points = {(trial["values"][THRESHOLD], trial["values"][WEIGHT]) for trial in found["trials"]}
    assert points == {(0.9, 5.0), (0.9, 50.0), (0.2, 5.0), (0.2, 50.0)} and len(found["trials"]) == 4
    assert {trial["status"] for trial in found["trials"]} == {"finished"}
    entries, runs = logs(store)
    assert Counter(entry.body["number"] for entry in entries if entry.op == "outcome") == {1: 1, 2: 1, 3: 1, 4: 1}
    for run in runs.values():
        assert [entry.body["version"] for entry in run if entry.op == "commit"] == [1, 2]
        assert sum(entry.op == "finish" for entry in run) == 1


def test_trials_that_agree_on_the_first_task_share_it(swept: tuple[Path, Path, dict[str, Any]]) -> None:
    """Trained once a threshold; the second commit of each is its own, though it started from the same bytes."""
    _, store, found = swept
    _, runs = logs(store)
    trained, digests = Counter[float](), dict[float, set[str]]()
    for trial in found["trials"]:
        first, second = (entry.body for entry in runs[trial["run"]] if entry.op == "commit")
        trained[trial["values"][THRESHOLD]] += "forked_from" not in first
        digests.setdefault(trial["values"][THRESHOLD], set()).add(first["manifest_sha256"])
        assert "forked_from" not in second and second["test"] == [] and len(second["validation"]) == 2
    assert trained == {0.9: 1, 0.2: 1} and all(len(each) == 1 for each in digests.values())


def test_a_log_of_hours_is_read_indexed_and_shown(swept: tuple[Path, Path, dict[str, Any]]) -> None:
    """The drivers of this sweep renewed their lease all the time."""
    _, store, _ = swept
    log = sweep_log(LocalStore(store), "default", "grid")
    entries = log.raw_entries()
    named = [entry.body["upto"] for entry in entries if entry.op == "index"]
    assert len(entries) > 600 and sum(entry.op == "renew" for entry in entries) > 500
    assert log.entries() == entries and {*log.indices()} >= {*named} >= {200, 400, 600}
    assert log.write_index() == len(entries) and log.entries()[:-1] == entries
    verified = call("adapters", "verify", "--store", str(store))
    assert verified.returncode == 0 and "faults" not in verified.stdout, verified.stdout + verified.stderr


def test_the_recommended_configuration_reproduces_its_trial(swept: tuple[Path, Path, dict[str, Any]]) -> None:
    _, store, found = swept
    chosen = next(trial for trial in found["trials"] if trial["number"] == found["recommended"])
    run = call("run", found["recommended_config"])
    assert run.returncode == 0, run.stdout + run.stderr
    shown = json.loads(call("status", "grid-best", "--store", str(store), "--json").stdout)
    assert abs(shown["validation_metrics"]["aa"] - chosen["aa"]) <= 0.005
    assert shown["metrics"]["active_parameters"] == chosen["parameters"]
    assert all(value is not None for value in shown["matrix"][-1])  # a run of its own is scored on the test splits too


def test_what_it_leaves(swept: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, found = swept
    assert {path.name for path in (folder / "out").iterdir()} == {"recommended.yaml", "front.png", "trials.json"}
    assert found["pareto"] and set(found["pareto"]) <= {1, 2, 3, 4}
    assert len(list((folder / "tensorboard" / "default" / "grid").iterdir())) == 4
    again = call("sweep", str(folder / "sweep.yaml"), "--output", str(folder / "out"), "--json")
    assert json.loads(again.stdout) == found  # done: nothing is started
    assert json.loads(call("sweep", str(folder / "sweep.yaml"), "--show", "--json").stdout)["pareto"] == found["pareto"]
