"""A method with an adapter per task through the command line: trained by two workers, read, exported and loaded.

That a task which was left is resumed to the bit is in `tests/trainers/methods/test_conformance.py`.
"""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from orchestrator import load
from tests.support.nodes import Nodes
from tests.support.tiny_run import call, config_file
from trainers.config import ModelConfig
from trainers.models.loading import load_backbone

LORA = {"method": "lora", "target_modules": ["output.dense"], "rank": 2, "alpha": 4.0, "mode": "per_task"}


@pytest.fixture(scope="module")
def config(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, two workers."""
    folder = tmp_path_factory.mktemp("methods")
    path = config_file(folder, 2, folder / "store")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "adapter": LORA}))
    run = nodes.run(str(path))
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stdout + run.stderr
    assert "overlap ·  r_eff 2.0" in run.stdout  # what it does not measure is no figure
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
    _, row = json.loads(call("adapters", "list", "--store", store, "--json").stdout)
    folder = tmp_path / "made"
    done = call("adapters", "export", row["ref"], "--format", "peft", "--store", store, "--output", str(folder))
    assert done.returncode == 0 and f"wrote {folder}: {row['ref']} as peft" in done.stdout, done.stderr
    written = load_file(folder / "adapter_model.safetensors")
    kept = load_file(Path(store) / row["location"] / "adapter.safetensors")
    assert written.keys() == kept.keys() and all(torch.equal(written[key], kept[key]) for key in kept)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 4)
    model, base = load(row["ref"], store=store), load_backbone(ModelConfig()).model
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
