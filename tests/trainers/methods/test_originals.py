"""What a method writes into a layer starts from its given parameters each time, and leaves no trace once put back."""

from functools import partial
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from trainers.methods.oa.rounding import Change, Rounding, write
from trainers.methods.originals import Originals

DTYPES = (torch.float32, torch.bfloat16)


def layer(dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4).to(dtype)


def adding(module: nn.Linear, step_DK: Tensor, rounding: Rounding) -> Change:
    """Adds to the weight, as a method does."""
    weight_DK = module.weight.detach()
    return write(weight_DK, weight_DK.float() + step_DK, rounding, "a.weight")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", get_args(Rounding))
def test_a_layer_is_written_from_what_it_was_given_each_time(dtype: torch.dtype, rounding: Rounding) -> None:
    """Twice the same step is one step. The change is measured if the layer is narrower than float32 then."""
    module = layer(dtype)
    given = [parameter.detach().clone() for parameter in module.parameters()]
    originals, step_DK = Originals({"a": module}), torch.full((4, 6), 0.25)
    originals.keep()
    for _ in range(2):
        found = originals.rewrite("a", rounding, partial(adding, module, step_DK, rounding))
    wide = dtype == torch.float32 or rounding == "none"
    assert module.weight.dtype == (torch.float32 if wide else dtype)
    expected_DK = given[0].float() + step_DK
    error = (module.weight.float() - expected_DK).abs() / expected_DK.abs().clamp_min(0.25)
    assert error.max() <= (0 if wide else 2**-7)
    assert [*found] == ([] if wide else ["a"]) and all(
        each.share == pytest.approx(1, abs=0.02) for each in found.values()
    )
    assert module.__dict__.get("narrow") == (torch.bfloat16 if rounding == "none" and dtype != torch.float32 else None)
    originals.put_back("a")
    for parameter, before in zip(module.parameters(), given, strict=True):
        assert parameter.dtype == dtype and torch.equal(parameter, before)
    assert "narrow" not in module.__dict__


def test_what_is_kept_is_the_first_state_and_a_layer_without_copies_is_left() -> None:
    module = layer(torch.bfloat16)
    originals = Originals({"a": module})
    with torch.no_grad():
        module.bias.fill_(3)
        originals.put_back("a")
        assert originals.nbytes == 0 and bool((module.bias == 3).all())
        originals.keep()
        module.bias.fill_(4)
        originals.keep()
    originals.put_back("a")
    assert originals.nbytes == 2 * (4 * 6 + 4) and bool((module.bias == 3).all())
