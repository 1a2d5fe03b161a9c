"""Two real processes under ZeRO 0 to 3 against one process of plain PyTorch on the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.closeness import assert_moved_alike
from tests.support.zero_pair import BATCHES, CASES, RESUMED, ROWS, STEPS, Case, Setting, train_config
from trainers.methods.oa.layers import use
from trainers.methods.oa.orthogonality import penalty
from trainers.training.engine import learning_rate_factor

REPO = Path(__file__).resolve().parents[3]
Tensors = dict[str, torch.Tensor]
References = dict[tuple[str, str, str], tuple[Tensors, Tensors]]


def launch(folder: Path, ranks: int, module: str = "tests.support.zero_pair") -> None:
    """Runs a module in that many processes to its end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", module, str(folder)]
    processes = [
        subprocess.Popen(
            command, cwd=REPO, env={**common, "LOCAL_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)[-6000:]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    launch(folder, 2)
    launch(folder, 1)  # goes on alone from what two have left
    return folder


@pytest.fixture(scope="module")
def references(pair: Path) -> References:
    """Of each family, history and dtype once: parameters at the start, and the same steps in plain PyTorch."""
    found: References = {}
    for case in CASES:
        key = case.family, case.history, case.dtype
        if key not in found:
            found[key] = reference(Setting(case, pair, partitioned=False))
    return found


def reference(setting: Setting) -> tuple[Tensors, Tensors]:
    """Mean loss over the batch's terms, dense penalty module by module, torch's own clipping and AdamW.

    Returns:
        Parameters before the first step; and after the last one, with losses and scores.
    """
    bank, train = setting.bank(), train_config(1)
    start = {name: parameter.detach().clone() for name, parameter in bank.named_parameters()}
    matrices = [p for n, p in bank.named_parameters() if n.startswith("W")]
    gates = [p for n, p in bank.named_parameters() if not n.startswith("W")]
    rates = (train.learning_rate, train.learning_rate * train.budget_learning_rate_factor)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": r, "weight_decay": 0.0} for p, r in zip((matrices, gates), rates, strict=True)]
    )
    first: Tensors = {}
    for step, batch in enumerate(BATCHES):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, train.warmup_steps, STEPS)
        outputs = bank(setting.dtype)
        use(setting.modules, bank.pairs(outputs))
        losses = setting.split.losses(setting.split.batch(batch))
        task = losses.sum() / int(setting.split.terms[batch].sum())
        names, written = list(setting.modules), setting.history.columns("written")
        orthogonality = sum(penalty(bank.W2_0[i][None], written[name][None]) for i, name in enumerate(names))
        budget = (bank.g_0.sign() * torch.relu(bank.g_0.abs() - bank.tau_0.abs()[:, None])).abs().sum() / len(names)
        if not first:
            first = {"loss/task": losses.sum().detach(), "loss/orthogonality": orthogonality.detach()}
            first["loss/budget"] = budget.detach()
        optimizer.zero_grad()
        (
            task + setting.adapter.orthogonality.weight * orthogonality + setting.adapter.budget_weight * budget
        ).backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *gates], train.max_grad_norm)
        optimizer.step()
    use(setting.modules, {})
    with torch.no_grad():
        first["eval/rows"] = setting.split.losses(setting.split.batch(np.arange(ROWS)))
    guesses = setting.backbone.predict(setting.split.token_ids, setting.split.labels, 64)
    first["eval/correct"] = (guesses == torch.as_tensor(setting.split.targets)).sum().float()
    return start, first | {name: parameter.detach() for name, parameter in bank.named_parameters()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_zero_equals_one_process(pair: Path, references: References, case: Case) -> None:
    """Losses of the first step, every parameter after three steps, and scores without adapters, with ranks that hold
    unequal rows, unequal tokens, or none.

    Parameters are judged by norm and share, which hold on any CPU: `assert_moved_alike` says why. Losses and scores
    have no division by noise in them: float32 to 2^-15, bfloat16 to 2^-6, as the batch is cut otherwise.
    """
    result = load_file(pair / f"{case.name}.safetensors")
    start, expected = references[case.family, case.history, case.dtype]
    assert result.keys() == expected.keys()
    assert expected["loss/orthogonality"] > 0.01 and ROWS % 2
    for name, value in expected.items():
        if name in start:
            assert_moved_alike(result[name], value, start[name], getattr(torch, case.dtype))
        else:
            bound = 2**-15 if case.dtype == "float32" else 2**-6
            torch.testing.assert_close(result[name], value.float(), rtol=bound, atol=bound)


@pytest.mark.parametrize("stages", RESUMED, ids=lambda stages: "-".join(map(str, stages)))
@pytest.mark.parametrize("ranks", [2, 1])
def test_a_checkpoint_resumes_on_another_stage_and_number_of_ranks(
    pair: Path, references: References, stages: tuple[str, int, int], ranks: int
) -> None:
    """Parameters after the last step are those of the run that was never interrupted, by the same norm and share."""
    family, before, after = stages
    if ranks == 1 and after == 3:
        pytest.skip("one rank has nobody to share the model with")
    result = load_file(pair / f"resumed_{family}_{before}_{after}_{ranks}.safetensors")
    case = Case(family, before, 2)
    whole = load_file(pair / f"{case.name}.safetensors")
    start, _ = references[case.family, case.history, case.dtype]
    for name in start:
        assert_moved_alike(result[name], whole[name], start[name], torch.float32)


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 4, 12) for step in range(13)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[8] == pytest.approx(0.5) and factors[12] == 0
    assert learning_rate_factor(0, 20, 1) == 1  # a run shorter than its warm-up still learns
