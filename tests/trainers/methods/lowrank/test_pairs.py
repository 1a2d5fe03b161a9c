"""What is trained of low-rank updates: what the layers get of it, and what is taken from it."""

import pytest
import torch

from tests.support.small_layers import changes, update
from trainers.methods.base import Penalty
from trainers.methods.lowrank.pairs import Pairs, Update


class Penalised(Pairs):
    """With two penalties of known values."""

    def parts(self) -> tuple[list[Update], dict[str, Penalty]]:
        updates, _ = super().parts()
        return updates, {"one": Penalty(0.5, updates[0][0].sum()), "two": Penalty(0.0, updates[2][1].sum())}


def test_what_goes_through_a_flat_tuple_has_its_names_again() -> None:
    start = update(1)
    pairs = Penalised(start)
    outputs = pairs(torch.bfloat16)
    assert all(isinstance(output, torch.Tensor) for output in outputs)
    found, penalties = pairs.split(outputs)
    assert [*found] == [*start]
    for name, (a_RK, b_DR) in found.items():
        assert torch.equal(a_RK, start[name].a_RK.bfloat16())
        assert torch.equal(b_DR, (0.5 * start[name].b_DR).bfloat16())
    assert {name: penalty.weight for name, penalty in penalties.items()} == {"one": 0.5, "two": 0.0}
    torch.testing.assert_close(penalties["one"].value, start["a"].a_RK.sum())
    torch.testing.assert_close(penalties["two"].value, start["c"].b_DR.sum())


def test_what_is_taken_is_a_copy() -> None:
    start = update(1)
    pairs = Pairs(start)
    taken = pairs.snapshot()
    with torch.no_grad():
        for parameter in pairs.parameters():
            parameter.zero_()
    for name, lora in start.items():  # nor is what was given changed
        assert torch.equal(taken[name].a_RK, lora.a_RK) and torch.equal(taken[name].b_DR, lora.b_DR)
        assert lora.a_RK.any() and taken[name].scaling == 0.5


def test_norms_are_those_of_the_changes() -> None:
    expected = {name: float(change_DK.norm()) for name, change_DK in changes(update(2)).items()}
    assert Pairs(update(2)).norms() == pytest.approx(expected, rel=1e-4)


def test_frozen_rows_are_not_trained_but_kept() -> None:
    pairs = Pairs(update(1), frozen=True)
    assert {name for name, _ in pairs.named_parameters()} == {"B_0", "B_1", "B_2"}
    assert {"A_0", "A_1", "A_2"} < {*pairs.state_dict()}
    assert {name for name, each in pairs.snapshot().items() if torch.equal(each.a_RK, update(1)[name].a_RK)} == {*"abc"}
