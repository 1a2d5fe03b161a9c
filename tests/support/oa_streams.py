"""A small BERT with adapters as training might leave them."""

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
)

from trainers.method_config import AdapterConfig
from trainers.methods.oa import artifact
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.history import History
from trainers.methods.oa.layers import attach
from trainers.methods.targets import match_modules, width

WIDTH = 32
SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip


def bert(seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    shape = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertModel(BertConfig(vocab_size=100, max_position_embeddings=32, **shape)).eval().requires_grad_(False)


def settings(**overrides: object) -> AdapterConfig:
    return AdapterConfig.model_validate(
        {
            "target_modules": ["output.dense"],
            "max_rank": 6,
            "threshold": 0.5,
            "functional": {"weight": 0.0},
            **overrides,
        }
    )


def history_of(model: nn.Module, config: AdapterConfig | None = None, targets: object = ("output.dense",)) -> History:
    modules = match_modules(model, targets)  # type: ignore[arg-type]
    attach(modules)
    return History(modules, config or settings(), torch.float32)


def trained(history: History, config: AdapterConfig, seed: int, off: int = 2) -> AdapterBank:
    """Adapters as training might leave them: W2 random, the first `off` gates below τ."""
    generator = torch.Generator().manual_seed(seed)
    widths = {name: width(module) for name, module in history.modules.items()}
    bank = AdapterBank(widths, config, generator, history.columns("written"), history.columns("read"))
    for index in range(len(bank.groups)):
        w2, g = bank.get_parameter(f"W2_{index}"), bank.get_parameter(f"g_{index}")
        w2.data = 0.3 * torch.randn(w2.shape, generator=generator)
        g.data[:, :off] = 0.1
    return bank


def kept_of(bank: AdapterBank, history: History, moments: bool = False, energy: float = 0.9) -> artifact.TaskAdapter:
    seen = {}
    if moments:
        for number, (name, module) in enumerate(history.modules.items()):
            generator = torch.Generator().manual_seed(number)
            rows = torch.randn(200, width(module), generator=generator) * torch.linspace(3, 0.1, width(module))
            seen[name] = rows.T @ rows
    return artifact.extract(bank.snapshot(), history.written, history.read, seen, energy)


def outputs(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state
