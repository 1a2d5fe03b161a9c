"""Rounding to bfloat16 against numpy's own float32 neighbours; and what of a change the weights of a stream hold."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.oa_streams import bert, history_of, kept_of, settings, trained
from trainers.methods.oa import export, rounding
from trainers.methods.oa.history import History, fold
from trainers.methods.oa.layers import detach
from trainers.methods.oa.rounding import Change, rounded, stochastic
from trainers.methods.targets import dense

STEP = 2.0**-8  # of bfloat16 from 1 to 2 it is 2^-7; half of it is what the nearest number is away at most


def neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of bfloat16 next to each value, nearer to and farther from 0: its bits cut off, and one more."""
    cut = values.view(np.uint32) & np.uint32(0xFFFF0000)
    exact = cut == values.view(np.uint32)
    return cut.view(np.float32), np.where(exact, cut, cut + np.uint32(0x10000)).view(np.float32)


def test_stochastic_rounding_takes_a_neighbour_and_is_right_on_average() -> None:
    """Mean over 1000 seeds, to five standard errors of the draw; numbers that bfloat16 has stay."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-30, 30, 256)
    values = torch.cat([torch.randn(256, generator=generator) * spread, torch.tensor([0.0, -1.0, 1.5, 2.0**-130])])
    low, high = neighbours(values.numpy())
    total = np.zeros(len(values))
    for seed in range(1000):
        found = stochastic(values, seed).float().numpy()
        assert ((found == low) | (found == high)).all()
        total += found.astype(np.float64)
    gap = np.abs(high.astype(np.float64) - low)
    share = np.divide(np.abs(values.numpy().astype(np.float64) - low), gap, out=np.zeros_like(gap), where=gap > 0)
    error = np.abs(total / 1000 - values.numpy())
    assert (error <= gap * (5 * np.sqrt(share * (1 - share) / 1000) + 1e-3)).all()
    assert (stochastic(values[-4:], 1).float() == values[-4:]).all()


def test_it_depends_on_place_and_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on how much is rounded at once, on the layout in memory, or on what was drawn before."""
    value = torch.randn(37, 53, generator=torch.Generator().manual_seed(1))
    first = rounded(value, torch.bfloat16, "stochastic", "a.weight")
    torch.rand(5)
    monkeypatch.setattr(rounding, "AT_ONCE", 100)
    assert torch.equal(rounded(value.T.contiguous().T, torch.bfloat16, "stochastic", "a.weight"), first)
    assert not torch.equal(rounded(value, torch.bfloat16, "stochastic", "b.weight"), first)
    assert torch.equal(rounded(value, torch.float32, "stochastic", "a.weight"), value)
    assert torch.equal(rounded(value, torch.bfloat16, "nearest", "a.weight"), value.bfloat16())
    special = torch.tensor([float("inf"), float("-inf"), float("nan")])
    assert torch.equal(stochastic(special, 3).isfinite(), torch.zeros(3, dtype=torch.bool))


def test_a_weight_that_grows_crosses_once() -> None:
    values = [stochastic(torch.full((500,), 1 + share * 2 * STEP), 7).float() for share in np.linspace(0, 1, 20)]
    assert all((after >= before).all() for before, after in pairwise(values))
    assert (values[0] == 1).all() and (values[-1] == 1 + 2 * STEP).all()


@pytest.mark.parametrize(("size", "least", "most"), [(3e-4, 0.02, 0.5), (1e-3, 0.3, 0.8), (1e-1, 0.98, 1.02)])
def test_the_share_of_a_small_change_that_the_nearest_number_keeps(size: float, least: float, most: float) -> None:
    """|ΔW|/|W| of 1e-3 and 3e-4, as in the issue: nearest loses half and more of it, stochastic nothing on average."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(256, 256, generator=generator).bfloat16()
    exact = weight.float() + size * torch.randn(256, 256, generator=generator)
    kept = {}
    for way in ("nearest", "stochastic"):
        stored = rounded(exact, torch.bfloat16, way, "w")  # type: ignore[arg-type]
        kept[way] = Change.of(weight, exact, stored).share
        a, d = exact.double() - weight.double(), stored.double() - weight.double()
        assert kept[way] == pytest.approx(float((a * d).sum() / a.square().sum()), rel=1e-5)
    assert least < kept["nearest"] < most
    assert kept["stochastic"] == pytest.approx(1, abs=0.1)


def folded(way: str, scale: float) -> tuple[History, dict[str, Tensor]]:
    """Two tasks of small changes over a bfloat16 BERT, and its weights as they were."""
    model = bert().bfloat16()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = settings(rounding=way)
    history = history_of(model, config)
    history.dtype = torch.bfloat16
    for seed in (1, 2):
        bank = trained(history, config, seed)
        bank.get_parameter("W2_0").data *= scale
        history.extend(kept_of(bank, history))
    history.model = model  # type: ignore[attr-defined]
    return history, before


@pytest.mark.parametrize("way", ["nearest", "stochastic"])
def test_a_folded_history_measures_what_it_keeps_and_is_undone_to_the_bit(way: str) -> None:
    """The share is that of a float64 fold here; and a merged export has the same weights, to the bit."""
    history, before = folded(way, 2e-3)
    model = history.model  # type: ignore[attr-defined]
    for name, module in history.modules.items():
        w0, f = before[f"{name}.weight"].double(), torch.eye(module.out_features, dtype=torch.float64)  # type: ignore[call-overload]
        for task in history.tasks:
            part = task.modules[name]
            f = f + part.w2_DR.double() @ (part.gamma_R.double()[:, None] * part.w1_RD.double()) @ f
        b0 = before[f"{name}.bias"].double()
        asked = torch.cat([((f @ w0) - w0).flatten(), (f @ b0) - b0])
        held = torch.cat([(dense(module)[0].double() - w0).flatten(), module.bias.double() - b0])  # type: ignore[operator]
        assert history.changes[name].share == pytest.approx(float(asked @ held / (asked @ asked)), rel=1e-3)
    share = rounding.total(history.changes).share
    assert share < 0.8 if way == "nearest" else 0.9 < share < 1.1
    merged = bert().bfloat16()
    export.merge(merged, history.tasks, way)  # type: ignore[arg-type]
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in merged.state_dict().items())
    at_once, _ = folded(way, 2e-3)
    tasks = at_once.tasks
    at_once.restore()
    assert at_once.changes == {}
    at_once.extend(*tasks)
    assert at_once.changes == history.changes
    history.restore()
    detach(history.modules)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_float32_weights_are_neither_rounded_nor_measured() -> None:
    history = history_of(bert(), settings(rounding="stochastic"))
    plain = history_of(bert(), settings())
    for each in (history, plain):
        each.extend(kept_of(trained(each, settings(), 1), each))
    assert history.changes == plain.changes == {}
    for name in plain.modules:
        assert torch.equal(dense(history.modules[name])[0], dense(plain.modules[name])[0])  # type: ignore[arg-type]


def random_inputs() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(100, (4, 12), generator=torch.Generator().manual_seed(3))}


def test_unrounded_layers_hold_all_and_give_it_back_to_the_bit() -> None:
    """With `none`: the layers of the stream are float32 and hold the fold exactly, in one go or task by task; the rest
    of the model and its outputs stay bfloat16; nothing is measured; the base comes back, in bfloat16."""
    history, before = folded("none", 2e-3)
    model = history.model  # type: ignore[attr-defined]
    plain = bert().bfloat16().float()
    export.merge(plain, history.tasks, "nearest")
    for name, module in history.modules.items():
        weight, bias = dense(module)
        assert weight.dtype == bias.dtype == torch.float32  # type: ignore[union-attr]
        assert torch.equal(weight, plain.get_parameter(f"{name}.weight"))
        assert torch.equal(bias, plain.get_parameter(f"{name}.bias"))  # type: ignore[arg-type]
    assert {model.get_parameter(name).dtype for name, _ in model.named_parameters() if "output" not in name} == {
        torch.bfloat16
    }
    seen: list[torch.dtype] = []
    for module in history.modules.values():
        module.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    assert model(**random_inputs())[0].dtype == torch.bfloat16 and {*seen} == {torch.bfloat16}
    assert history.changes == {}
    tasks, weights = history.tasks, {name: dense(module)[0].clone() for name, module in history.modules.items()}
    history.restore()
    assert all(
        value.dtype == torch.bfloat16 and torch.equal(value, before[n]) for n, value in model.state_dict().items()
    )
    history.extend(*tasks)
    assert all(torch.equal(dense(module)[0], weights[name]) for name, module in history.modules.items())
    history.begin(settings())
    detach(history.modules)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_rounding_loses_is_in_the_outputs_of_unrounded_layers() -> None:
    """The share of a small change's outputs, against float64. Outputs are bfloat16 either way: over a million of them
    their own rounding, up to ten times the change, leaves less than a hundredth."""
    x = torch.randn(2**15, 64, generator=torch.Generator().manual_seed(4)).bfloat16()
    shown = {}
    for way in ("nearest", "none"):
        history, before = folded(way, 3e-4)
        name, layer = next((name, module) for name, module in history.modules.items() if module.in_features == 64)
        w0, b0 = before[f"{name}.weight"].double(), before[f"{name}.bias"].double()
        weight, bias = fold(w0, b0, [task.modules[name] for task in history.tasks])
        asked = x.double() @ (weight.double() - w0).T + (bias.double() - b0)  # type: ignore[union-attr]
        found = layer(x).double()
        history.restore()
        shown[way] = float(((found - layer(x).double()) * asked).sum() / asked.square().sum())
    assert shown["nearest"] < 0.6 and shown["none"] == pytest.approx(1, abs=0.05)
