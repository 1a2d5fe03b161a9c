"""What W&B writes offline is what the sink was told, read back with its own messages. `make test-wandb` fetches it."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError
from orchestrator.sinks.base import Sinks
from orchestrator.sinks.config import TrackingConfig
from orchestrator.sinks.opening import open_sinks
from orchestrator.sinks.wandb import WandB
from tests.support.places import PARAMETERS, RUN

if folder := os.environ.get("ORTHOPLEX_WANDB_FOLDER"):
    sys.path.append(folder)  # behind what is installed
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="needs W&B: make test-wandb")
BLOCK, HEAD = 32768, 7  # of the log that W&B writes: LevelDB's, behind a head of its own


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all tests: W&B reads its settings once per process."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        yield folder


def records(path: Path) -> Iterator[Any]:
    """The messages of a .wandb file: chunks of checksum (4 bytes), length (2), kind (1: whole, 2, 3, 4: its parts)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + HEAD : place + HEAD + size]
        place += HEAD + size
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""


def told(folder: Path) -> list[dict[str, Any]]:
    """Each run that was written, oldest first, once W&B's own process has written all of each: it goes on for a moment
    after a run was finished."""
    deadline = time.monotonic() + 20
    found = written(folder)
    while not all("exit" in each for each in found) and time.monotonic() < deadline:
        time.sleep(0.1)
        found = written(folder)
    return found


def written(folder: Path) -> list[dict[str, Any]]:
    """As far as it is written: name, config, history, summary, exit code."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        made: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "axes": {}}
        for record in records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    made |= {key: getattr(record.run, key) for key in ("run_id", "project", "entity", "run_group")}
                    made["name"] = record.run.display_name
                    made["config"] |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
                case "history":
                    items = {"/".join(each.nested_key) or each.key: json.loads(each.value_json)
                             for each in record.history.item}  # fmt: skip
                    made["history"].append({key: value for key, value in items.items() if not key.startswith("_")})
                case "summary":
                    made["summary"] |= {"/".join(each.nested_key) or each.key: json.loads(each.value_json)
                                        for each in record.summary.update}  # fmt: skip
                case "metric":
                    made["axes"][record.metric.name] = record.metric.step_metric
                case "exit":
                    made["exit"] = record.exit.exit_code
        found.append(made)
    return found


@needs_wandb
@pytest.mark.slow
def test_a_run_that_is_stopped_and_goes_on(offline: Path) -> None:
    said: list[str] = []
    for status, step in (("stopped", 1), ("finished", 2)):
        following = Sinks({"wandb": lambda: WandB("owner/streams")}, said.append).start(RUN)
        following.log({"loss": 1 / step, "overlap": float("nan")}, step=step, task="a_task")
        following.log({"aa": step / 8}, step=step)
        following.end(status, {"aa": step / 8})  # type: ignore[arg-type]
    assert said == []
    first, second = (each for each in told(offline) if each["name"] == "r")
    assert (first["project"], first["entity"], first["name"], first["run_group"]) == ("streams", "owner", "r", "blue")
    assert first["config"]["adapter.threshold"] == PARAMETERS["adapter.threshold"]
    assert first["history"] == [{"a_task/loss": 1.0, "a_task/step": 1}, {"aa": 0.125, "tasks_done": 1}]
    assert first["axes"]["a_task/loss"] == "a_task/step" and first["axes"]["aa"] == "tasks_done"
    assert (first["summary"]["status"], second["summary"]["status"]) == ("stopped", "finished")
    assert (first["exit"], second["exit"]) == (0, 0) and first["run_id"] == second["run_id"]


@needs_wandb
@pytest.mark.slow
def test_runs_side_by_side_are_kept_apart(offline: Path) -> None:
    """As the trials of a sweep: one in W&B does not end the other."""
    sinks = [WandB("streams") for _ in range(2)]
    for number, sink in enumerate(sinks):
        sink.start(replace(RUN, name=f"s-{number}", sweep="s"))
    for number, sink in enumerate(sinks):
        sink.log({"aa": float(number)}, step=1)
    for sink in sinks:
        sink.end("failed", {})
    found = {each["name"]: each for each in told(offline) if each["run_group"] == "blue/s"}
    assert {name: each["history"] for name, each in found.items()} == {
        f"s-{n}": [{"aa": float(n), "tasks_done": 1}] for n in range(2)
    }
    assert {each["exit"] for each in found.values()} == {1}


def test_wandb_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sinks.opening.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"tracking\.wandb: .*pip install 'orthoplex\[wandb\]'"):
        open_sinks(TrackingConfig(wandb="streams"), print)


@pytest.mark.parametrize("project", ["", "a/b/c", "https://host/x", "a:b", "/x"])
def test_what_is_no_project(project: str) -> None:
    with pytest.raises(ValidationError, match="wandb"):
        TrackingConfig(wandb=project)
    assert TrackingConfig(wandb="owner/my streams").wandb == "owner/my streams"
