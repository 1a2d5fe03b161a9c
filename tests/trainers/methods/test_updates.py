"""Low-rank updates: what is stored is read again, and nothing else is taken for it."""

import pytest
import torch
from safetensors.torch import save

from cluster.errors import IntegrityError
from tests.support.small_layers import layers, update
from trainers.methods.base import Lora
from trainers.methods.updates import check_fits, dump, fresh, parse, update_norm


def made(**shapes: tuple[int, int, int]) -> dict[str, Lora]:
    return {n: Lora(torch.randn(r, k), torch.randn(d, r), scaling=0.1) for n, (d, k, r) in shapes.items()}


@pytest.mark.parametrize("stored", [made(**{"a": (3, 5, 2), "b.c": (4, 5, 2)}), made(a=(3, 5, 1), b=(3, 5, 2)), {}])
def test_a_file_is_read_as_it_was_written(stored: dict[str, Lora]) -> None:
    read = parse(dump(stored), "x")
    assert read.keys() == stored.keys()
    for name, lora in stored.items():
        assert torch.equal(read[name].a_RK, lora.a_RK) and torch.equal(read[name].b_DR, lora.b_DR)
        assert read[name].scaling == 0.1


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 50, save({"a": torch.ones(1)}), save({"a": torch.ones(1)}, {"scaling": "x"}),
        dump(made(a=(3, 5, 2)))[:-1], dump({"a": Lora(torch.full((2, 3), torch.nan), torch.ones(3, 2))}),
        dump({"a": Lora(torch.ones(2, 3), torch.ones(3, 1))}), dump({"a": Lora(torch.ones(0, 3), torch.ones(3, 0))}),
        dump({"a": Lora(torch.ones(3), torch.ones(3, 3))}),
        dump({"a": Lora(torch.ones(2, 3).half(), torch.ones(3, 2))}),
        dump({"a": Lora(torch.ones(2, 3), torch.full((3, 2), 3e38))}),
        *(dump({"a": Lora(torch.ones(2, 3), torch.ones(3, 2), scaling=each)}) for each in (float("nan"), 1e300)),
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^x: .*do not use this version$"):
        parse(data, "x")


def test_updates_of_other_layers_do_not_fit() -> None:
    modules, fitting = dict(layers()), update(1)
    check_fits("x", fitting, modules, every=True)
    part = {"a": fitting["a"]}
    check_fits("x", part, modules, every=False)
    with pytest.raises(IntegrityError, match=r"^x adapts other layers than this run; the files are not of it$"):
        check_fits("x", part, modules, every=True)
    with pytest.raises(IntegrityError, match="adapts other layers"):
        check_fits("x", {"d": fitting["a"]}, modules, every=False)
    with pytest.raises(IntegrityError, match="x, layer 'a': the adapter maps 6 to 4 values, the layer 5 to 7"):
        check_fits("x", {"a": fitting["b"]}, modules, every=False)


def test_new_updates_change_nothing_and_are_those_of_the_seed() -> None:
    one, same, other = (fresh(dict(layers()), 200, 2.0, seed) for seed in (1, 1, 2))
    for name, lora in one.items():
        assert torch.equal(lora.a_RK, same[name].a_RK) and not torch.equal(lora.a_RK, other[name].a_RK)
        assert not lora.b_DR.any() and lora.scaling == 2.0
        bound = lora.a_RK.shape[1] ** -0.5
        assert 0.97 * bound < lora.a_RK.abs().max() <= bound


def test_the_norm_of_an_update() -> None:
    a_RK, b_DR = torch.randn(3, 7), torch.randn(5, 3)
    torch.testing.assert_close(update_norm(a_RK, b_DR), torch.linalg.matrix_norm(b_DR @ a_RK))
