"""Runs that train the base's own weights, from configuration to export, with a real worker per task in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.run.controller import Controller
from tests.support.command_line import Result, here
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray
from tests.support.jobs_pair import TASKS
from trainers.messages import Order, TaskDone
from trainers.workers.worker import Worker

pytestmark = pytest.mark.slow

LAYERS = ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"]
SECTIONS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "target_modules": LAYERS},
    "ewc": {"method": "ewc", "target_modules": LAYERS, "weight": 100.0},
    "osft": {"method": "osft", "target_modules": LAYERS, "effective_rank": 0.75},
}


@dataclass
class NewWorkers(FakeWorkers):
    """Each task is trained by a worker that has the earlier ones from the store."""

    def train(self, order: Order, on_event: Callable[[Any], None]) -> TaskDone:
        on_event(None)
        worker = Worker(replace(self.jobs[-1], tasks=TASKS), torch.device("cpu"), lambda _: None)
        worker.catch_up(order)
        return worker.run(order)


@pytest.mark.parametrize("method", SECTIONS)
def test_a_run_is_scored_shown_and_exported(
    bases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    without_ray(monkeypatch)
    dtype = "bfloat16" if method == "full" else "float32"
    store = tmp_path / "store"
    config = run_config(
        store, ["first", "second"], adapter=SECTIONS[method],
        model={"name": str(bases / "llama"), "task_type": "CAUSAL_LM", "max_length": 16, "dtype": dtype},
        train={"epochs": 1, "batch_size": 12, "learning_rate": 1e-3, "warmup_steps": 0},
    )  # fmt: skip
    controller = Controller(config, Told(), workers=NewWorkers(config))
    controller.run()
    commits = controller.state.commits
    assert [commit.active_parameters for commit in commits] == [2 * 32 * 32, 0]
    assert all(len(commit.test) == 2 for commit in commits)

    def call(*argv: object) -> Result:
        return here(monkeypatch, capsys, *argv)

    shown = json.loads(call("status", "stream", "--store", str(store), "--json").out)
    assert (shown["state"], shown["metrics"]["active_parameters"]) == ("finished", 2 * 32 * 32)
    told = call("status", "stream", "--store", str(store)).out
    assert "2,048  changed weights of all tasks" in told
    explained = call("explain", "stream", "--store", str(store))
    assert explained.code == 0 and f"adapter.method {method} gives every layer its rank" in explained.out

    merged, refused = tmp_path / "merged", tmp_path / "peft"
    ref = ["default/stream@v2", "--store", str(store)]
    done = call("adapters", "export", *ref, "--format", "merged", "--output", str(merged))
    assert done.code == 0 and "with all tasks before it as merged; 2 layers, ranks 32 to 32" in done.out
    (kept,) = (store / commits[1].prefix).glob("adapter.safetensors")
    written = {key: value for file in merged.glob("*.safetensors") for key, value in load_file(file).items()}
    values = load_file(kept)
    assert (
        len(values) == 2
        and {str(value.dtype) for value in written.values()} == {f"torch.{dtype}"}
        and all(torch.equal(written[name], value.to(written[name].dtype)) for name, value in values.items())
    )
    base = {key: value for file in (bases / "llama").glob("*.safetensors") for key, value in load_file(file).items()}
    assert all(torch.equal(written[name], base[name].to(written[name].dtype)) != (name in values) for name in written)

    failed = call("adapters", "export", *ref, "--format", "peft", "--output", str(refused))
    assert failed.code == 2 and not refused.exists()
    assert f"adapter.method: {method} changes the base's own weights" in failed.err
    assert "export it with --format merged" in failed.err
