"""Packed rows have the losses and gradients that they have alone, and no logits are made that nobody asks for."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from torch import Tensor

from trainers.data.lines import in_lines
from trainers.models import trained_tokens
from trainers.models.trained_tokens import gives_head, head_input, keeps_apart, token_losses

WORDS = 120
SHAPE = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}
N2 = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODELS: dict[str, tuple[Any, bool, bool]] = {  # made by, whether logits are the head's, whether rows may share a line
    "llama": (lambda: T.LlamaForCausalLM(T.LlamaConfig(**GROUPED)), True, True),
    "qwen3": (lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**GROUPED)), True, True),
    "gpt2": (lambda: T.GPT2LMHeadModel(T.GPT2Config(**N2, **ENDS)), True, True),
    "gemma2": (lambda: T.Gemma2ForCausalLM(T.Gemma2Config(**GROUPED, sliding_window=8)), False, True),
    "gemma3": (lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**GROUPED, sliding_window=8)), True, True),
    "granite": (lambda: T.GraniteForCausalLM(T.GraniteConfig(**SHAPE, logits_scaling=4.0)), False, True),
    "bloom": (
        lambda: T.BloomForCausalLM(T.BloomConfig(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4)),
        True,
        False,
    ),
    "opt": (lambda: T.OPTForCausalLM(T.OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=32)), True, False),
}
RNG = np.random.default_rng(0)
IDS = [RNG.integers(3, WORDS, length) for length in (9, 30, 4, 17, 2, 25)]
TRAINED = [np.append(RNG.random(len(row) - 1) < 0.6, True) for row in IDS]


def made(name: str) -> Any:
    """In evaluation mode, with weights large enough to tell tokens apart."""
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return model


def alone(model: Any) -> Tensor:
    """(N,) losses of each row by itself, from all its logits."""
    found = []
    for row, flags in zip(IDS, TRAINED, strict=True):
        logits = model(torch.from_numpy(row).unsqueeze(0)).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(row[1:]), reduction="none")
        found.append(losses[torch.from_numpy(flags[1:])])
    return torch.cat(found)


@pytest.mark.parametrize("name", MODELS)
def test_probes_tell_what_a_model_does(name: str) -> None:
    _, plain, packs = MODELS[name]
    model = made(name)
    assert (gives_head(model, 5), keeps_apart(model, (5, 7))) == (plain, packs)
    assert not model.training


@pytest.mark.parametrize("capacity", [None, 40, 87])
@pytest.mark.parametrize("name", [name for name, (_, _, packs) in MODELS.items() if packs])
def test_losses_and_gradients_are_those_of_rows_alone(
    name: str, capacity: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_tokens, "CHUNK", 7)
    model = made(name)
    parameters = list(model.parameters())
    expected = alone(model)
    reference = torch.autograd.grad(expected.sum(), parameters)
    for plain in {False, MODELS[name][1]}:
        losses = token_losses(model, in_lines(IDS, TRAINED, 0, capacity), plain=plain)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
        for found, right in zip(torch.autograd.grad(losses.sum(), parameters), reference, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_rest_of_a_model_with_a_frozen_head_has_the_same_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_tokens, "CHUNK", 7)
    model = made(name)
    model.get_output_embeddings().requires_grad_(False)
    parameters = [each for each in model.parameters() if each.requires_grad]
    weights = torch.linspace(0.5, 1.5, int(sum(flags[1:].sum() for flags in TRAINED)))  # each loss its own upstream
    reference = torch.autograd.grad((alone(model) * weights).sum(), parameters)
    losses = token_losses(model, in_lines(IDS, TRAINED, 0, 40), plain=True)
    for found, right in zip(torch.autograd.grad((losses * weights).sum(), parameters), reference, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))


@pytest.mark.parametrize("plain", [True, False])
def test_no_logits_of_other_tokens_are_made(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_tokens, "CHUNK", 10)
    model, made_for = made("llama"), list[int]()
    model.lm_head.requires_grad_(False)
    ahead = model.lm_head.forward

    def counted(hidden: Tensor) -> Tensor:
        made_for.append(hidden.shape[:-1].numel())
        return ahead(hidden)

    monkeypatch.setattr(model.lm_head, "forward", counted)
    batch = in_lines(IDS, TRAINED, 0, 40)
    token_losses(model, batch, plain=plain)
    assert batch.answers is not None
    lines, wanted = batch.ids.shape[0], len(batch.answers)
    assert sum(made_for) == (wanted + lines if plain else wanted)
    assert max(made_for) <= (10 if plain else wanted)


def test_the_hook_is_gone_afterwards() -> None:
    model = made("llama")
    with pytest.raises(ZeroDivisionError), head_input(model, lambda hidden: hidden):
        raise ZeroDivisionError
    assert not model.lm_head._forward_pre_hooks
