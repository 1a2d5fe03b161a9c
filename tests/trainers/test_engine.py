"""Two real processes under ZeRO 0, 1 and 2 against one process of plain PyTorch on the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.zero_pair import ADAPTER, BATCHES, CASES, ROWS, STEPS, new_adapters, setting, train_config
from trainers.adapters.layers import attach, detach, match_modules
from trainers.adapters.orthogonality import penalty
from trainers.engine import learning_rate_factor

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_SIZE": "2"}
    command = [sys.executable, "-m", "tests.trainers.zero_pair", str(folder)]
    processes = [
        subprocess.Popen(
            command, cwd=REPO, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)[-4000:]
    return folder


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    """The same steps written out: mean loss over the batch, dense penalty, torch's own clipping and AdamW."""
    backbone, split, labels = setting()
    modules = match_modules(backbone.model, ADAPTER.target_modules)
    adapters = new_adapters({name: module.out_features for name, module in modules.items()})
    attach(modules, adapters)
    train = train_config(1)
    matrices = [p for a in adapters.values() for p in (a.W1, a.W2)]
    gates = [p for a in adapters.values() for p in (a.g, a.tau)]
    rates = (train.learning_rate, train.learning_rate * train.budget_learning_rate_factor)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": r, "weight_decay": 0.0} for p, r in zip((matrices, gates), rates, strict=True)]
    )
    first: dict[str, torch.Tensor] = {}
    for step, batch in enumerate(BATCHES):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, train.warmup_steps, STEPS)
        logits = backbone.logits([split.token_ids[i] for i in batch], labels)
        task = torch.nn.functional.cross_entropy(logits, torch.as_tensor(split.targets[batch]))
        orthogonality = sum(penalty(a.W2[None], a.written[None]) for a in adapters.values())
        budget = sum(a.gamma().abs().sum() for a in adapters.values()) / len(adapters)
        first = first or {"task": task.detach(), "orthogonality": orthogonality.detach(), "budget": budget.detach()}
        optimizer.zero_grad()
        (task + ADAPTER.orthogonality.weight * orthogonality + ADAPTER.budget_weight * budget).backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *gates], train.max_grad_norm)
        optimizer.step()
    detach(modules)
    return first | {f"{n}.{k}": p.detach() for n, a in adapters.items() for k, p in a.named_parameters()}


@pytest.mark.parametrize(("stage", "accumulation"), CASES)
def test_zero_equals_one_process(pair: Path, reference: dict[str, torch.Tensor], stage: int, accumulation: int) -> None:
    """Losses of the first step and every parameter after three steps, with ranks that hold unequal rows or none.

    Adam divides small gradients by themselves, so their rounding shows: 5e-5 is half a percent of one step (lr 1e-2).
    """
    result = load_file(pair / f"{stage}_{accumulation}.safetensors")
    assert result.keys() == reference.keys()
    assert reference["orthogonality"] > 0.01 and ROWS % 2
    for name, expected in reference.items():
        assert torch.allclose(result[name], expected, rtol=1e-4, atol=5e-5), name


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 4, 12) for step in range(13)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[8] == pytest.approx(0.5) and factors[12] == 0
    assert learning_rate_factor(0, 20, 1) == 1  # a run shorter than its warm-up still learns
