"""The command line end to end: real Ray workers, DeepSpeed, MiniLM and docstrings, in a local store."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from cluster.storage import LocalStore
from cluster.temporary import temporary
from orchestrator.track.track import Track
from tests.support.tiny_run import REPO, call, called, command, config_file, following, hurried


def status(store: Path) -> dict[str, Any]:
    result = call("status", "tiny", "--store", str(store), "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def tensors(store: Path) -> list[dict[str, Any]]:
    """Adapter and bases of every committed task, in order."""
    listed = json.loads(call("adapters", "list", "--store", str(store), "--json").stdout)
    return [
        load_file(store / row["location"] / name)
        for row in listed
        for name in ("adapter.safetensors", "bases.safetensors")
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("e2e")
    (folder / "before.json").write_text(json.dumps(sorted(abandoned())))
    return folder


@pytest.fixture(scope="module", autouse=True)
def temporary_files_of_users() -> Iterator[Path]:
    """A folder for the temporary files of these commands alone: another test process may be at work."""
    with (
        temporary("state", below="/tmp") as own,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", own)
        yield Path(own)


def abandoned() -> set[str]:
    """Ray's session folders, in /tmp or named by a running process, whose driver has ended. A session is named after
    the id of its driver's process."""
    commands = " ".join(" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    folders = [*map(str, Path("/tmp").glob("orthoplex-*/r/session_*")), commands]
    sessions = re.finditer(r"/tmp/orthoplex-[\w.-]+/r/session_[\d_-]+_(\d+)", " ".join(folders))
    return {session[0] for session in sessions if not psutil.pid_exists(int(session[1]))}


@pytest.fixture(scope="module")
def diverging(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run whose loss leaves the finite numbers, under way beside the next one: a start mostly waits."""
    config = config_file(folder, 1, folder / "diverged")
    settings = ("train.learning_rate=1e30", "train.budget_learning_rate_factor=1e-33", "cluster.num_workers=1")
    words = [word for setting in settings for word in ("--set", setting)]
    run = subprocess.Popen(
        command("run", str(config), *words), cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield run
    run.kill()


@pytest.fixture(scope="module")
def whole(folder: Path, diverging: subprocess.Popen[str]) -> Path:
    """A store whose run of two tasks went through undisturbed, with as many renewals as in hours."""
    store = folder / "whole"
    run = called(hurried("run", str(config_file(folder, 2, store))))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "default/tiny: finished, 2 of 2 tasks" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    return store


@pytest.fixture(scope="module")
def disturbed(folder: Path) -> Path:
    """A store whose run of the same two tasks got Ctrl-C within the second, was run again, and then lost a worker."""
    store = folder / "disturbed"
    config = str(config_file(folder, 2, store))
    with following(command("run", config)) as (run, until):
        until("[2/2] area: train 2/6")
        run.send_signal(signal.SIGINT)
        _, message = run.communicate(timeout=120)
        assert run.returncode == 130 and "Traceback" not in message, message
        assert f"orthoplex run {config}" in message
    state = status(store)
    assert state["state"] == "interrupted"
    assert [task["state"] for task in state["tasks"]] == ["done", "pending"]
    with following(command("run", config)) as (run, until):
        until("default/tiny: 1 of 2 tasks are committed already")
        until("[2/2] area: resume")  # kept when the driver left, between two checkpoints of its own accord
        workers = [p for p in psutil.Process(run.pid).children(recursive=True) if "RayTrainWorker" in p.name()]
        workers[0].kill()
        output, message = run.communicate(timeout=180)
        assert run.returncode == 0, output + message
        assert re.search(r"\[2/2\] area: resume [46]/6", output), output  # mid-task, not from its start
    return store


def test_status_is_complete_and_in_fractions(whole: Path) -> None:
    state = status(whole)
    assert state["name"] == "tiny" and state["state"] == "finished"
    assert [task["name"] for task in state["tasks"]] == ["kind", "area"]
    for key in ("matrix", "validation_matrix"):
        assert [len(row) for row in state[key]] == [2, 2]
        assert all(0 <= value <= 1 for row in state[key] for value in row)  # later tasks are evaluated too
    (first, ahead), (kept, second) = state["matrix"]
    assert state["metrics"]["aa"] == pytest.approx((kept + second) / 2)
    assert state["metrics"]["bwt"] == pytest.approx(kept - first)
    assert state["metrics"]["fwt"] == pytest.approx(ahead - state["zero_shot"][1])
    parameters = sum(t.numel() for file in tensors(whole)[::2] for t in file.values())
    assert state["metrics"]["active_parameters"] == parameters


def test_a_log_of_hours_is_read_listed_indexed_and_verified(whole: Path) -> None:
    """An index each 200 entries, written by the driver among its renewals; then one more, on purpose."""
    track = Track(LocalStore(whole), "default", "tiny")
    entries = track.raw_entries()
    renewed = sum(entry.op == "renew" for entry in entries)
    assert len(entries) > 600 and renewed > 500 and entries[-1].op == "finish"
    named = [entry.body["upto"] for entry in entries if entry.op == "index"]
    assert named[:3] == [200, 400, 600] and track.indices() == named[::-1] and track.entries() == entries
    indexed = call("adapters", "index", "--store", str(whole))
    assert indexed.returncode == 0 and f"default/tiny: {len(entries)} entries" in indexed.stdout, indexed.stderr
    listed = json.loads(call("adapters", "list", "--store", str(whole), "--json").stdout)
    assert [(row["version"], row["task"]) for row in listed] == [(1, "kind"), (2, "area")]
    verified = call("adapters", "verify", "--store", str(whole))
    assert verified.returncode == 0 and ": whole" in verified.stdout, verified.stdout + verified.stderr
    assert status(whole)["state"] == "finished"


def test_only_active_dimensions_are_stored(whole: Path) -> None:
    state = status(whole)
    for task, stored in zip(state["tasks"], tensors(whole)[::2], strict=True):
        for module, budget in task["budget"].items():
            rank = stored[f"{module}.gamma"].numel() if f"{module}.gamma" in stored else 0
            assert rank == budget["rank"] <= 4
    assert any(b["rank"] < 4 for task in state["tasks"] for b in task["budget"].values())


def test_a_disturbed_run_ends_where_an_undisturbed_one_does(whole: Path, disturbed: Path) -> None:
    """After Ctrl-C and the SIGKILL of a worker, on the same number of workers: the same to the bit."""
    for a, b in zip(tensors(whole), tensors(disturbed), strict=True):
        assert a.keys() == b.keys()
        assert all((a[key] == b[key]).all() for key in a)
    for key in ("matrix", "validation_matrix", "zero_shot"):
        assert status(whole)[key] == status(disturbed)[key]


def test_a_finished_run_says_so_and_does_nothing(folder: Path, whole: Path) -> None:
    before = sorted(whole.rglob("*"))
    result = call("run", str(config_file(folder, 2, whole)))
    assert result.returncode == 0 and "default/tiny: finished, 2 of 2 tasks" in result.stdout
    assert sorted(whole.rglob("*")) == before


def test_a_guard_stops_a_stream_before_its_next_task(folder: Path, disturbed: Path) -> None:
    """A third task is appended to the finished run; the guard, read on validation, does not let it start."""
    grown = str(config_file(folder, 3, disturbed))
    result = call("run", grown, "--set", "guards.min_average_accuracy=1.0")
    assert result.returncode == 3 and "min_average_accuracy" in result.stderr, result.stderr
    state = status(disturbed)
    assert state["state"] == "stopped" and "min_average_accuracy" in state["reason"]
    assert [task["state"] for task in state["tasks"]] == ["done", "done", "pending"]
    assert state["matrix"][0][2] is None  # the third task did not exist yet


def test_another_configuration_is_refused_with_the_difference(folder: Path, whole: Path) -> None:
    result = call("run", str(config_file(folder, 2, whole)), "--set", "adapter.threshold=0.1")
    assert result.returncode == 2
    assert "adapter.threshold: was 0.9, is now 0.1" in result.stderr and "Traceback" not in result.stderr


def test_explain_and_show_read_what_was_stored(whole: Path) -> None:
    explained = call("explain", "tiny", "--store", str(whole))
    assert explained.returncode == 0 and re.search(r"encoder\.layer\.0\.output\.dense .*→", explained.stdout), (
        explained.stdout
    )
    shown = json.loads(call("adapters", "show", "default/tiny@v2", "--store", str(whole), "--json").stdout)
    assert shown["task"] == "area" and len(shown["manifest"]["parents"]) == 1
    assert {record["path"] for record in shown["manifest"]["files"]} == {
        "adapter.safetensors", "bases.safetensors", "training.parquet",
        "decisions.parquet",
    }  # fmt: skip


def test_divergence_fails_with_one_message_and_keeps_the_log(folder: Path, diverging: subprocess.Popen[str]) -> None:
    output, message = diverging.communicate(timeout=240)
    assert diverging.returncode == 1, output + message
    assert re.search(r"loss is (nan|inf) at step \d+", message)
    assert "Traceback" not in message
    state = status(folder / "diverged")
    assert state["state"] == "failed" and "train.learning_rate" in state["reason"]


def test_nothing_is_left_running_or_lying_around(
    folder: Path, whole: Path, disturbed: Path, temporary_files_of_users: Path
) -> None:
    """Ray's processes name its temporary folder; those of our runs, and the folders, are gone. The store keeps gc's
    reserve."""
    assert abandoned() <= set(json.loads((folder / "before.json").read_text()))
    assert not list(temporary_files_of_users.glob("orthoplex-*"))
    assert {path.name for path in disturbed.glob(".tmp/*") if path.is_file()} <= {".reserve"}
