"""A method with an adapter per task through the command line: interrupted, resumed, read, exported and loaded."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from orchestrator import load
from tests.support.tiny_run import REPO, call, command, config_file
from trainers.config import ModelConfig
from trainers.models.loading import load_backbone

LORA = {"method": "lora", "target_modules": ["output.dense"], "rank": 2, "alpha": 4.0, "mode": "per_task"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, two workers; a store whose run got Ctrl-C within the second task and was run again."""
    folder = tmp_path_factory.mktemp("methods")
    path = config_file(folder, 2, folder / "store")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "adapter": LORA}))
    with subprocess.Popen(
        command("run", str(path)), cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("[2/2] area: train 2/6"):
                run.send_signal(signal.SIGINT)
        message = run.stderr.read() if run.stderr else ""
        assert run.wait() == 130 and "Traceback" not in message, message
    again = call("run", str(path))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "[2/2] area: resume" in again.stdout and "Traceback" not in again.stderr
    return path


@pytest.fixture
def store(config: Path) -> str:
    return str(config.parent / "store")


def test_status_and_explain(store: str) -> None:
    state = json.loads(call("status", "tiny", "--store", store, "--json").stdout)
    assert state["state"] == "finished" and state["metrics"]["active_parameters"] > 0
    (first, ahead), (kept, _) = state["matrix"]
    assert kept == first and ahead == state["zero_shot"][1]  # its own adapter answers each, the base what is ahead
    assert state["metrics"]["bwt"] == 0
    assert all(task["budget"] and task["overlap"] is None and not task["occupancy"] for task in state["tasks"])
    explained = call("explain", "tiny", "--store", store)
    assert explained.returncode == 0 and "adapter.method lora" in explained.stdout, explained.stderr
    shown = call("adapters", "show", "default/tiny@v1", "--store", store)
    assert shown.returncode == 0 and "adapter.safetensors" in shown.stdout


def test_a_version_is_exported_and_loaded_alone(store: str, tmp_path: Path) -> None:
    listed = json.loads(call("adapters", "list", "--store", store, "--json").stdout)
    for row in listed:
        folder = tmp_path / str(row["version"])
        done = call("adapters", "export", row["ref"], "--store", store, "--output", str(folder))
        assert done.returncode == 0, done.stderr
        written, kept = (
            load_file(folder / "adapter_model.safetensors"),
            load_file(Path(store) / row["location"] / "adapter.safetensors"),
        )
        matrices = {key: value for key, value in written.items() if not key.endswith(".bias")}
        assert matrices.keys() == kept.keys() and all(torch.equal(matrices[key], kept[key]) for key in kept)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (2, 4)
    model, base = load(listed[-1]["ref"], store=store), load_backbone(ModelConfig()).model
    name = "encoder.layer.0.output.dense"
    a_RK, b_DR = (kept[f"base_model.model.{name}.lora_{matrix}.weight"] for matrix in "AB")
    assert b_DR.norm() > 0
    expected = base.get_submodule(name).weight + 2 * b_DR @ a_RK  # alpha / rank is 2; nothing of the first task
    torch.testing.assert_close(model.get_submodule(name).weight, expected)


def test_another_method_is_another_run(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**content, "adapter": {"target_modules": ["output.dense"]}}))
    refused = call("run", str(config))
    config.write_text(yaml.safe_dump(content))
    assert refused.returncode == 2
    assert re.search(r"adapter\.method: was 'lora', is now None", refused.stderr), refused.stderr
