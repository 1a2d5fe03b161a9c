"""A stream at one rank: the bound on a layer's outputs holds, through PEFT, and is the best that there is."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from cluster.errors import ConfigError
from tests.support.tiny_models import tiny
from trainers.methods.base import Lora
from trainers.methods.card import Provenance
from trainers.methods.compress import ALLOWED, EXACT, Spectrum, compress, needed
from trainers.methods.export import write_peft
from trainers.methods.targets import match_modules

SHAPES = {  # family: target modules, of unequal widths
    "llama": ["q_proj", "k_proj", "down_proj"],
    "qwen3": ["q_proj", "v_proj", "o_proj"],
    "t5": ["q", "wi", "wo"],
}
TASK_TYPES = {"t5": "SEQ_2_SEQ_LM"}


def update(layer: nn.Linear, rank: int, draw: torch.Generator, scaling: float = 1.0) -> Lora:
    """A random update with falling singular values."""
    k, d = layer.in_features, layer.out_features
    fall = 0.8 ** torch.arange(rank)
    a_RK = torch.randn(rank, k, generator=draw) * fall[:, None] / k**0.5
    return Lora(a_RK, torch.randn(d, rank, generator=draw) / d**0.5, scaling=scaling)


def product(lora: Lora) -> torch.Tensor:
    return lora.scaling * lora.b_DR.double() @ lora.a_RK.double()


@pytest.mark.parametrize("family", SHAPES)
@torch.no_grad()
def test_the_bound_holds_through_peft(family: str, tmp_path: Path) -> None:
    """On random inputs, layer by layer; the folder has one rank, one scale, and no pattern."""
    model, draw = tiny(family), torch.Generator().manual_seed(1)
    layers: Any = match_modules(model, SHAPES[family])
    ranks = {name: 3 + 7 * (index % 3) for index, name in enumerate(layers)}
    stream = {name: update(layer, ranks[name], draw, 1.5) for name, layer in layers.items()}
    made = compress(stream, max_rank=8, tolerance=0.9)
    origin = Provenance("t/x@v1", ("a",), TASK_TYPES.get(family, "CAUSAL_LM"), "org/base", "d" * 64)
    write_peft(model, made.stream, tmp_path / "made", origin, notes=made.told())
    config = json.loads((tmp_path / "made/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["lora_bias"]) == (8, 8, {}, False)
    served: Any = peft.PeftModel.from_pretrained(model, tmp_path / "made")
    lost = 0
    for name, layer in layers.items():
        x_NK = torch.randn(50, layer.in_features, generator=draw)
        found = served.get_submodule(f"base_model.model.{name}")
        exact_ND = x_NK.double() @ product(stream[name]).T
        given_ND = (found(x_NK) - found.base_layer(x_NK)).double()
        error_N = (given_ND - exact_ND).norm(dim=1)
        rounding = 1e-6 * float(found.base_layer(x_NK).norm(dim=1).max())  # of the float32 sum in the layer
        assert (error_N <= made.spectra[name].lost(8) * x_NK.norm(dim=1) + rounding).all(), name
        lost += int(error_N.max() > 1e-4)
    assert lost == sum(rank > 8 for rank in ranks.values())


def test_the_bound_is_the_distance_itself() -> None:
    """Against an SVD of the whole product, in float64; no LoRA of that rank is nearer."""
    lora = update(nn.Linear(40, 24), 20, torch.Generator().manual_seed(2), 0.5)
    whole, spectrum = product(lora), Spectrum.of(lora)
    sigma = torch.linalg.svdvals(whole)
    for rank in (1, 8, 16):
        distance = float(torch.linalg.matrix_norm(whole - product(spectrum.at(rank)), 2))
        assert distance <= spectrum.lost(rank) and distance == pytest.approx(float(sigma[rank]), rel=1e-5)
    assert float(torch.linalg.matrix_norm(whole - product(spectrum.at(32)), 2)) <= spectrum.lost(32) < 1e-6
    assert spectrum.at(32).a_RK.shape == (32, 40) and not spectrum.at(32).b_DR[:, 20:].any()


def test_fifteen_tasks_of_rank_16_at_rank_64() -> None:
    """The loss is stated; the exact rank of 240 takes 256."""
    draw = torch.Generator().manual_seed(3)
    tasks = [update(nn.Linear(256, 320), 16, draw) for _ in range(15)]
    stream = {"x": Lora(torch.cat([each.a_RK for each in tasks]), torch.cat([each.b_DR for each in tasks], 1))}
    made = compress(stream, max_rank=64, tolerance=0.5)
    sigma = torch.linalg.svdvals(product(stream["x"]))
    name, share = made.worst
    assert (name, made.rank, made.before) == ("x", 64, 240)
    assert share == pytest.approx(float(sigma[64] / sigma[0]), rel=1e-4)
    assert made.energy_lost == pytest.approx(float(sigma[64:].square().sum() / sigma.square().sum()), rel=1e-6)
    assert "became 64" in made.told()[0] and f"{share:.3g}" in made.told()[1]
    assert compress(stream, max_rank=None, tolerance=None).rank == 256
    with pytest.raises(ConfigError, match=r"not given.*at rank 64 layer x may lose .*use --max-rank 256, the smallest"):
        compress(stream, max_rank=64, tolerance=None)


def test_the_smallest_rank_that_keeps_to_a_tolerance() -> None:
    """It is chosen without --max-rank, and named if --max-rank is too small."""
    stream = {"x": update(nn.Linear(64, 64), 60, torch.Generator().manual_seed(4))}
    spectrum = Spectrum.of(stream["x"])
    tolerance = spectrum.relative(16) * 1.01
    assert compress(stream, max_rank=None, tolerance=tolerance).rank == 16
    with pytest.raises(ConfigError, match=r"at rank 8 layer x may lose .*use --max-rank 16") as raised:
        compress(stream, max_rank=8, tolerance=tolerance)
    allowed = float(str(raised.value).rpartition("allow ")[2])
    assert compress(stream, max_rank=8, tolerance=allowed).rank == 8
    assert compress(stream, max_rank=512, tolerance=1.0).rank == 64  # no larger than what holds all


def test_what_is_refused() -> None:
    lora = update(nn.Linear(8, 8), 4, torch.Generator().manual_seed(5))
    with pytest.raises(ConfigError, match="--max-rank 24: vLLM allows 1, 8, 16"):
        compress({"x": lora}, max_rank=24, tolerance=None)
    biased = Lora(lora.a_RK, lora.b_DR, torch.ones(8))
    with pytest.raises(ConfigError, match=r"1 layers change their bias \(x"):
        compress({"x": biased}, max_rank=8, tolerance=None)
    still = Lora(lora.a_RK, lora.b_DR, torch.zeros(8))
    assert compress({"x": still}, max_rank=8, tolerance=None).stream["x"].shift_D is None
    nothing = Lora(torch.zeros(2, 8), torch.zeros(8, 2))
    assert compress({"x": nothing}, max_rank=None, tolerance=0.0).rank == ALLOWED[0]
    wide = {"x": update(nn.Linear(700, 700), 600, torch.Generator().manual_seed(6))}
    wide["x"] = Lora(torch.eye(600, 700), torch.eye(700, 600))
    with pytest.raises(ConfigError, match="serve the merged model"):
        compress(wide, max_rank=None, tolerance=EXACT)


def test_what_a_server_needs_as_it_is() -> None:
    lora = update(nn.Linear(64, 64), 20, torch.Generator().manual_seed(7))
    assert "needs --max-lora-rank 32;" in needed({"x": lora})[0]
    assert "no LoRA bias" in needed({"x": Lora(lora.a_RK, lora.b_DR, torch.ones(64))})[0]
    assert "512 at most" in needed({"x": Lora(torch.ones(513, 4), torch.ones(4, 513))})[0]
