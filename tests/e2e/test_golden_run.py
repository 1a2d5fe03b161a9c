"""A run that code of before began, and that was interrupted in its second task, is gone on with to its end over Ray."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.golden.golden import GOLDEN, copy_to
from tests.golden.test_golden import updates
from tests.support.nodes import Nodes
from tests.support.tiny_run import call

STORES = ("--store", "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The recorded store of the interrupted run, beside its configuration and data."""
    folder = copy_to(tmp_path).folder
    shutil.rmtree(folder / "store")
    shutil.copytree(GOLDEN / "interrupted", folder / "store")
    return folder


def test_an_interrupted_run_of_before_is_gone_on_with(nodes: Nodes, folder: Path) -> None:
    """From the checkpoint that was left; the second task's adapter is that of the run which old code took to its end
    (`golden/stream` of the golden store, with the same settings), but for rounding on another machine."""
    before = {path: path.read_bytes() for path in folder.glob("store/t/golden/stream/[lv]*/**/*") if path.is_file()}
    run = nodes.run("run.yaml", folder)
    assert run.returncode == 0 and "Traceback" not in run.stdout + run.stderr, run.stdout + run.stderr
    assert "golden/stream: 1 of 2 tasks are committed already" in run.stdout
    assert re.search(r"\[2/2\] weather: resume [1-9]\d*/", run.stdout), run.stdout
    assert "golden/stream: finished, 2 of 2 tasks" in run.stdout
    assert all(path.read_bytes() == data for path, data in before.items())
    verified = call("adapters", "verify", *STORES, folder=folder)
    assert verified.returncode == 0 and "faults" not in verified.stdout, verified.stdout + verified.stderr
    _, row = json.loads(call("adapters", "list", *STORES, "--json", folder=folder).stdout)
    words = ("export", row["ref"], "--format", "peft", *STORES, "--output", "made")
    exported = call("adapters", *words, folder=folder)
    assert exported.returncode == 0 and (folder / "made/adapter_model.safetensors").is_file(), exported.stderr
    kept, found = updates(load_file(recorded_adapter())), updates(load_file(folder / "store" / row["location"] / NAME))
    assert {name: rank for name, (rank, _) in found.items()} == {name: rank for name, (rank, _) in kept.items()}
    for name, (_, update) in kept.items():
        assert np.linalg.norm(found[name][1] - update) < 1e-3 * np.linalg.norm(update), name


NAME = "adapter.safetensors"


def recorded_adapter() -> Path:
    """Of the second version of golden/stream in the golden store, by its commit."""
    entries = [json.loads(path.read_bytes()) for path in (GOLDEN / "store/t/golden/stream/log").glob("*.json")]
    (commit,) = [entry for entry in entries if entry["op"] == "commit" and entry["version"] == 2]
    return GOLDEN / "store" / str(commit["prefix"]) / NAME
