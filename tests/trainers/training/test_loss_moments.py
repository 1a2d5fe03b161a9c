"""What adapters read and how the loss feels their layers, against hooks and autograd on single rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_models import save_tiny
from trainers.config import ModelConfig
from trainers.data.prompts import Prompt
from trainers.methods.oa.layers import attach, use
from trainers.methods.targets import match_modules, width
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone
from trainers.models.tokens import TokenizedTask, tokenize
from trainers.objectives.classification import Classification, ClassifiedSplit
from trainers.training import loss_moments as module_under_test
from trainers.training.loss_moments import loss_moments

TEXTS = ["a", "a short one", "somewhat longer than the one before it", "?", "two words", "one more of middling length"]
FAMILIES = {
    "minilm": ("LABEL_EMBEDDING", ["output.dense"]), "llama": ("CAUSAL_LM", ["o_proj", "down_proj"]),
    "gpt2": ("CAUSAL_LM", ["c_proj"]), "t5": ("SEQ_2_SEQ_LM", ["o", "wo"]),
}  # fmt: skip
Setting = tuple[Backbone, dict[str, torch.nn.Module], ClassifiedSplit]

pytestmark = pytest.mark.usefixtures("one_process")


def setting_of(family: str, folder: Path) -> Setting:
    """A model with adapters on all its layers, and rows."""
    kind, targets = FAMILIES[family]
    name = "minilm" if family == "minilm" else str(save_tiny(family, folder / family))
    backbone = load_backbone(ModelConfig.model_validate({"name": name, "task_type": kind, "max_length": 32}))
    modules = match_modules(backbone.model, targets)
    attach(modules)
    generator = torch.Generator().manual_seed(0)
    use(modules, {
        name: (torch.randn(2, width(m), generator=generator) * width(m) ** -0.5,
               0.2 * torch.randn(width(m), 2, generator=generator))
        for name, m in modules.items()
    })  # fmt: skip
    words = ["yes", "certainly not, whatever anybody says of it", "maybe"]
    task = TokenizedTask("t", tuple(words), {"train": tokenize(backbone, TEXTS, [0, 1, 2, 1, 0, 2], Prompt())})
    return backbone, modules, Classification().encode(backbone, task)["train"]


def by_hand(setting: Setting, rows: range) -> dict[str, tuple[Tensor, Tensor]]:
    """Row by row, so that nothing is padded: h is what the layer gives less its pair's share, g its gradient."""
    _, modules, split = setting
    sums = {n: (torch.zeros(width(m), width(m)), torch.zeros(width(m), width(m))) for n, m in modules.items()}
    given: dict[str, Tensor] = {}

    def keep(name: str, y: Tensor) -> Tensor:
        given[name] = y if y.requires_grad else y.detach().requires_grad_()
        return given[name]

    hooks = [m.register_forward_hook(lambda _m, _i, y, n=n: keep(n, y)) for n, m in modules.items()]
    for row in rows:
        with torch.enable_grad():
            loss = split.losses(split.batch(np.array([row]))).sum()
            gradients = torch.autograd.grad(loss, [*given.values()])
        for (name, y), g in zip(given.items(), gradients, strict=True):
            down, up = modules[name].pair  # type: ignore[misc]
            d = y.shape[-1]
            inverse = torch.linalg.inv(torch.eye(d) + up @ down)
            h_ND = y.detach().reshape(-1, d) @ inverse.T
            sums[name][0].add_(h_ND.T @ h_ND)
            sums[name][1].add_(g.reshape(-1, d).T @ g.reshape(-1, d))
    for hook in hooks:
        hook.remove()
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_those_of_single_rows(tmp_path: Path, family: str) -> None:
    setting = setting_of(family, tmp_path)
    backbone, modules, split = setting
    expected = by_hand(setting, range(len(TEXTS)))
    with torch.no_grad():
        found = loss_moments(backbone, modules, split, 4, seed=0)
    for name, pair in expected.items():
        for moment, exact in zip(found[name], pair, strict=True):
            torch.testing.assert_close(moment, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
            assert exact.trace() > 0
    assert not any({"moment", "felt"} & vars(module).keys() for module in modules.values())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_a_sample_is_read_that_the_seed_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = setting_of("gpt2", tmp_path)
    monkeypatch.setattr(module_under_test, "ROWS", 3)
    found = [loss_moments(*setting, 2, seed=seed) for seed in (1, 1, 2)]
    name = next(iter(setting[1]))
    first, again, other = (each[name][0] for each in found)
    assert torch.equal(first, again) and not torch.allclose(first, other)
    rows = sorted(np.random.default_rng(1).permutation(6)[:3])
    whole = sum(by_hand(setting, range(row, row + 1))[name][0] for row in rows)
    torch.testing.assert_close(first, whole, rtol=1e-3, atol=1e-4 * float(first.abs().max()))
