"""Views of one model: what they share, what they add, and what is left of them.

That every method answers beside a shared base as in its own weights is in `test_conformance`.
"""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.tiny_models import tiny
from trainers.method_config import LoraConfig
from trainers.methods.base import Lora
from trainers.methods.beside import Beside, put_beside, view_of
from trainers.methods.registry import method_for
from trainers.methods.updates import FILE, dump

LAYER = "model.layers.0.self_attn.o_proj"


def lora(seed: int, shift: bool = False) -> Lora:
    draw = torch.Generator().manual_seed(seed)
    a_RK, b_DR = (torch.randn(shape, generator=draw) for shape in ((2, 6), (5, 2)))
    return Lora(a_RK, b_DR, torch.randn(5, generator=draw) if shift else None, scaling=0.5)


def over(layer: nn.Module, *streams: Lora, by_task: bool = False) -> Beside:
    method: Any = SimpleNamespace(modules={"layer": layer})
    return Beside(method, [{"layer": each} for each in streams], by_task=by_task)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_is_added_in_float32(dtype: torch.dtype, shift: bool) -> None:
    """h = W0 x + b + scaling · B A x + shift, rounded once."""
    layer, update, x = nn.Linear(6, 5).to(dtype), lora(0, shift), torch.randn(3, 6).to(dtype)
    h = layer(x).detach()
    over(layer, update)
    expected = h.float() + 0.5 * x.float() @ update.a_RK.T @ update.b_DR.T
    expected = expected + update.shift_D if update.shift_D is not None else expected
    found = layer(x).detach()
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype), rtol=0.01 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_one_update_per_task() -> None:
    """Task 0 and 1 have their own; without a task the newest answers, and of task 2 the base."""
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    base = layer(x)
    beside = over(layer, lora(0), lora(1), by_task=True)
    changes = []
    for task in (0, 1, 2, None):
        with beside.answering(task):
            changes.append(layer(x) - base)
    for change, update in zip(changes, (lora(0), lora(1)), strict=False):
        torch.testing.assert_close(change, 0.5 * x @ update.a_RK.T @ update.b_DR.T)
    assert not changes[2].any() and torch.equal(changes[3], changes[1])


def test_a_view_shares_the_weights_and_not_the_modules() -> None:
    model = tiny("llama")
    view = view_of(model)
    own, theirs = dict(model.named_parameters()), dict(view.named_parameters())
    assert own.keys() == theirs.keys()
    assert all(own[name].data_ptr() == theirs[name].data_ptr() and own[name] is not theirs[name] for name in own)
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    view.get_submodule(LAYER).register_forward_hook(lambda *_: torch.zeros(1, 3, model.config.hidden_size))
    assert torch.equal(model(ids).logits, before) and not torch.equal(view(ids).logits, before)


def test_tied_weights_stay_tied() -> None:
    view = view_of(tiny("t5"))
    tied = [name for name, _ in view.named_parameters(remove_duplicate=False)]
    assert len(tied) > len([*view.named_parameters()]) == len([*tiny("t5").named_parameters()])


def test_what_a_view_holds_is_freed_with_it() -> None:
    model = tiny("llama")
    config = LoraConfig.model_validate({"method": "lora", "target_modules": ["o_proj"], "rank": 2})
    view = view_of(model)
    method = method_for(view, config, torch.float32)
    width = model.config.hidden_size
    stream = {name: Lora(torch.randn(2, width), torch.randn(width, 2)) for name in method.modules}
    answers = put_beside(method, config, [SimpleNamespace(files={FILE: dump(stream)})])  # type: ignore[list-item]
    assert isinstance(answers, Beside)
    held = weakref.ref(answers.updates[0][LAYER].down_RK)
    assert held() is not None
    del view, method, answers, stream
    gc.collect()
    assert held() is None and model.get_submodule(LAYER)._forward_hooks == {}
