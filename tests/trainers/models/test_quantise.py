"""The frozen base in eight bits: what it holds, what it gives, and that adapters train on it."""

import pytest
import torch
from torch import nn

from tests.support.tiny_models import tiny
from trainers.method_config import AdapterConfig
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.history import History
from trainers.methods.oa.layers import attach, use
from trainers.methods.targets import match_modules, width
from trainers.models.quantise import Float8Linear, parameters_of, quantise

IDS = torch.arange(5, 29).reshape(2, 12)


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_weights_are_eight_bits_within_their_rounding_and_the_head_is_left() -> None:
    plain, model = tiny("llama"), tiny("llama")
    quantise(model)
    assert parameters_of(model) == parameters_of(plain) == sum(each.numel() for each in plain.parameters())
    for name, module in model.named_modules():
        if isinstance(module, Float8Linear):
            original = plain.get_submodule(name).weight
            kept = module.w8.float() * module.scale[:, None]
            assert module.w8.element_size() == 1 and module.weight.shape == original.shape
            close = 2**-4 * original.abs() + module.scale[:, None] * 2**-9  # the latter where it is subnormal
            assert ((kept - original).abs() <= close).all()
    assert sum(isinstance(m, Float8Linear) for m in model.modules()) == 3 * 7
    assert type(model.lm_head) is nn.Linear


def test_outputs_and_gradients_are_those_of_the_rounded_weights() -> None:
    rounded, model = tiny("llama"), tiny("llama")
    quantise(model)
    for name, module in model.named_modules():
        if isinstance(module, Float8Linear):
            rounded.get_submodule(name).weight.data = module.w8.float() * module.scale[:, None]
    assert torch.allclose(outputs(model), outputs(rounded), atol=1e-5)
    gradients = []
    for each in (model, rounded):
        embedded = each.get_input_embeddings()(IDS).detach().requires_grad_()
        each(inputs_embeds=embedded).logits.square().sum().backward()
        gradients.append(embedded.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_scales_stay_in_float32_and_a_weight_is_rounded_once() -> None:
    """Against float64: half a unit of bfloat16, where a rounded scale would add as much again."""
    model = tiny("llama").bfloat16()
    quantise(model)
    for module in model.modules():
        if isinstance(module, Float8Linear):
            exact = module.w8.double() * module.scale.double()[:, None]
            assert module.scale.dtype == torch.float32 and module.weight.dtype == torch.bfloat16
            assert ((module.weight.double() - exact).abs() <= 2**-8 * (1 + 1e-6) * exact.abs() + 1e-38).all()


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_adapters_train_on_it_and_the_history_is_concatenated(family: str) -> None:
    model = tiny(family).requires_grad_(False)
    quantise(model)
    config = AdapterConfig(target_modules=["o_proj" if family == "llama" else "wo"], max_rank=4, history="concatenated")
    modules = match_modules(model, config.target_modules)
    attach(modules)
    history = History(modules, config, torch.float32)
    widths = {name: width(module) for name, module in modules.items()}
    bank = AdapterBank(widths, config, torch.Generator(), history.columns("written"), history.columns("read"))
    bank.W2_0.data.normal_()
    inputs = {"input_ids": IDS} | ({"decoder_input_ids": IDS[:, :3]} if family == "t5" else {})
    use(modules, bank.pairs(bank(torch.float32)))
    live = model(**inputs).logits
    live.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in bank.named_parameters() if n.startswith("W"))
    use(modules, {})
    from trainers.methods.oa.artifact import extract

    history.extend(extract(bank.snapshot(), history.written, history.read, {}, 0.9))
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, live, atol=1e-4)
