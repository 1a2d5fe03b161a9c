"""A new adapter on the layers of a real transformers model."""

import pytest
import torch
from torch import nn

from tests.support.oa_streams import WIDTH, bert, history_of, outputs, settings, trained
from trainers.methods.oa.layers import LowRank, detach, use


def test_a_new_adapter_changes_nothing_and_hides_nothing() -> None:
    model = bert()
    before, names = outputs(model), set(model.state_dict())
    history = history_of(model)
    bank = trained(history, settings(), seed=0)
    bank.W2_0.data.zero_()
    use(history.modules, bank.pairs(bank(torch.float32)))
    assert torch.equal(outputs(model), before)  # W2 = 0
    assert model.encoder.layer[0].output.dense.weight.shape == (WIDTH, 64)
    assert set(model.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {name for name, _ in bank.named_parameters()} == {"W1_0", "W2_0", "g_0", "tau_0"}
    detach(history.modules)
    assert type(model.encoder.layer[0].output.dense) is nn.Linear


@pytest.mark.parametrize("frozen", [False, True])
def test_low_rank_equals_its_formula_and_gradient(frozen: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    h, down, up = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 3, 8), (4, 8), (8, 4)))
    pairs = []
    for function in (LowRank.apply, lambda h, down, up: h + (h @ down.T) @ up.T):
        inputs = [h.clone().requires_grad_(), *(p.clone().requires_grad_(not frozen) for p in (down, up))]
        result = function(*inputs)
        result.square().sum().backward()
        pairs.append([result, *(i.grad for i in inputs if i.requires_grad)])
    assert len(pairs[0]) == (2 if frozen else 4)
    assert all(torch.allclose(mine, reference) for mine, reference in zip(*pairs, strict=True))


def test_a_model_may_change_an_adapted_output_in_place() -> None:
    """Falcon and LED do."""
    h, down, up = torch.randn(2, 3, 8, requires_grad=True), torch.randn(2, 8, requires_grad=True), torch.randn(8, 2)
    found = []
    for function in (LowRank.apply, lambda h, down, up: h + (h @ down.T) @ up.T):
        result = function(h, down, up)
        result *= 3
        found.append(torch.autograd.grad(result.square().sum(), (h, down)))
    for mine, reference in zip(*found, strict=True):
        torch.testing.assert_close(mine, reference)
