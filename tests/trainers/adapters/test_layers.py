"""Adapters on a real transformers model, and what is kept of them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from cluster.errors import ConfigError
from trainers.adapters import artifact
from trainers.adapters.history import History
from trainers.adapters.layers import OAAdapter, attach, detach, match_modules
from trainers.config import AdapterConfig, OrthogonalityConfig

WIDTH = 32


def bert(seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    shape = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertModel(BertConfig(vocab_size=100, max_position_embeddings=32, **shape)).eval().requires_grad_(False)


def settings(**overrides: object) -> AdapterConfig:
    return AdapterConfig.model_validate({"target_modules": ["output.dense"], "max_rank": 6, **overrides})


def trained(
    history: History, config: AdapterConfig, seed: int, off: int = 2, moments: bool = False
) -> dict[str, OAAdapter]:
    """Adapters as training might leave them: W2 random, the first `off` gates below τ."""
    generator = torch.Generator().manual_seed(seed)
    adapters = {}
    for name, module in history.modules.items():
        adapter = OAAdapter(module.out_features, config, generator, history.written[name], history.read[name])
        adapter.W2.data = 0.3 * torch.randn(WIDTH, config.max_rank, generator=generator)
        adapter.g.data[:off] = 0.1
        if moments:
            rows = torch.randn(200, WIDTH, generator=generator) * torch.linspace(3, 0.1, WIDTH)
            adapter.moment_DD = rows.T @ rows
        adapters[name] = adapter
    return adapters


def outputs(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state


def test_target_modules_match_as_in_peft() -> None:
    model = bert()
    assert len(match_modules(model, ["output.dense"])) == 4  # attention.output.dense too: a suffix after a dot
    assert list(match_modules(model, ["encoder.layer.0.output.dense"])) == ["encoder.layer.0.output.dense"]
    assert len(match_modules(model, r".*\.(query|value)")) == 4
    assert len(match_modules(model, "all-linear")) == 13
    with pytest.raises(ConfigError, match=r"'qeury'.*did you mean 'attention\.self\.query'|'qeury' matches no"):
        match_modules(model, ["output.dense", "qeury"])
    with pytest.raises(ConfigError, match="not a regex"):
        match_modules(model, "(")


def test_a_new_adapter_changes_nothing_and_hides_nothing() -> None:
    model = bert()
    before, names = outputs(model), set(model.state_dict())
    modules = match_modules(model, ["output.dense"])
    history = History(modules)
    generator = torch.Generator().manual_seed(0)
    adapters = {n: OAAdapter(WIDTH, settings(), generator, history.written[n], history.read[n]) for n in modules}
    attach(modules, adapters)
    assert torch.equal(outputs(model), before)  # W2 = 0
    assert model.encoder.layer[0].output.dense.weight.shape == (WIDTH, 64)
    assert names <= set(model.state_dict())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{n}.adapter.{p}" for n in modules for p in ("W1", "W2", "g", "tau")
    }
    detach(modules)
    assert set(model.state_dict()) == names and type(model.encoder.layer[0].output.dense) is nn.Linear


def test_off_dimensions_drop_without_a_change_in_output() -> None:
    """The live adapter, and the layer folded from its active part alone, give the same."""
    model = bert()
    history = History(match_modules(model, ["output.dense"]))
    adapters = trained(history, settings(), seed=1)
    attach(history.modules, adapters)
    live = outputs(model)
    detach(history.modules)
    kept = artifact.extract(adapters, energy=0.9)
    assert {module.rank for module in kept.modules.values()} == {4}
    assert kept.parameters == 4 * 4 * (2 * WIDTH + 1)  # modules · r_eff · (2 D + 1)
    history.extend(kept)
    assert torch.allclose(outputs(model), live, atol=1e-5)
    assert not torch.allclose(live, outputs(bert()), atol=1e-2)


def test_a_module_without_active_dimensions_is_absent_and_the_identity(tmp_path: Path) -> None:
    model = bert()
    before = outputs(model)
    history = History(match_modules(model, ["output.dense"]))
    kept = artifact.extract(trained(history, settings(), seed=1, off=6), energy=0.9)
    assert kept.modules == {} and kept.written == {} and kept.parameters == 0
    artifact.save(kept, tmp_path)
    history.extend(artifact.parse(*((tmp_path / f).read_bytes() for f in ("adapter.safetensors", "bases.safetensors"))))
    assert torch.equal(outputs(model), before)


def test_folding_a_stream_equals_composing_it_and_can_be_undone() -> None:
    """h_t = (I + U_t) … (I + U_1) (W0 x + b), computed here in float64 without the library's fold."""
    model = bert()
    original = copy.deepcopy(model.state_dict())
    history = History(match_modules(model, ["output.dense"]))
    for seed in (1, 2, 3):
        history.extend(artifact.extract(trained(history, settings(), seed), energy=0.9))
    name, linear = next(iter(history.modules.items()))
    x = torch.randn(5, linear.in_features, generator=torch.Generator().manual_seed(9))
    h = x.double() @ original[f"{name}.weight"].double().T + original[f"{name}.bias"].double()
    for task in history.tasks:
        part = task.modules[name]
        h = h + ((h @ part.w1_RD.double().T) * part.gamma_R.double()) @ part.w2_DR.double().T
    assert torch.allclose(linear(x).double(), h, rtol=1e-5, atol=1e-5)
    history.restore()
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())
    assert history.tasks == []


def test_saved_adapter_is_read_back_exactly(tmp_path: Path) -> None:
    history = History(match_modules(bert(), ["output.dense"]))
    config = settings(orthogonality=OrthogonalityConfig(side="both").model_dump())
    kept = artifact.extract(trained(history, config, seed=1, moments=True), energy=0.9)
    artifact.save(kept, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "bases.safetensors"]
    again = artifact.parse(*((tmp_path / f).read_bytes() for f in ("adapter.safetensors", "bases.safetensors")))
    for name, module in kept.modules.items():
        assert torch.equal(again.modules[name].w1_RD, module.w1_RD)
        assert torch.equal(again.modules[name].w2_DR, module.w2_DR)
        assert torch.equal(again.modules[name].gamma_R, module.gamma_R)
        assert torch.equal(again.written[name].columns_DN, kept.written[name].columns_DN)
        assert torch.equal(again.read[name].columns_DN, kept.read[name].columns_DN)
    assert all(name in again.read for name in history.modules)


@pytest.mark.parametrize("side", ["output", "input", "both"])
def test_projection_keeps_the_next_task_out_of_both_subspaces(side: str) -> None:
    config = settings(orthogonality={"mode": "projection", "side": side, "energy": 0.8})
    history = History(match_modules(bert(), ["output.dense"]))
    history.extend(artifact.extract(trained(history, config, seed=1, moments=side != "output"), energy=0.8))
    following = artifact.extract(trained(history, config, seed=2), energy=0.8)
    for name, part in following.modules.items():
        if side != "input":
            assert (history.written[name].T @ part.written_DR).abs().max() < 1e-5
        if side != "output":
            assert history.read[name].shape[1] > 0
            assert (part.w1_RD @ history.read[name]).abs().max() < 1e-5
