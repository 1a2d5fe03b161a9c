"""A few small linear layers for methods to stand on, without a language model around them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.config import TrainConfig
from trainers.methods.base import Artifact, Lora, TaskContext
from trainers.methods.updates import FILE, dump

SIZES = {"a": (5, 7), "b": (6, 4), "c": (7, 5)}  # (K, D)


def layers(dtype: torch.dtype = torch.float32) -> nn.ModuleDict:
    """Frozen layers, always the same."""
    torch.manual_seed(0)
    made = nn.ModuleDict({name: nn.Linear(*size) for name, size in SIZES.items()}).to(dtype)
    return made.requires_grad_(False)


def context(*, steps: int = 20, seed: int = 3, **others: Any) -> TaskContext:
    train = TrainConfig(warmup_steps=0)
    return TaskContext(name="t", seed=seed, steps=steps, train=train, device=torch.device("cpu"), rank=0, **others)


def update(seed: int, *, rank: int = 2, scaling: float = 0.5, size: float = 1.0) -> dict[str, Lora]:
    """Random matrices for every layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Lora(
            torch.randn(rank, k, generator=generator), size * torch.randn(d, rank, generator=generator), scaling=scaling
        )
        for name, (k, d) in SIZES.items()
    }


def stored(stream: Mapping[str, Lora], **files: bytes) -> Artifact:
    """A task that was trained to these values."""
    return Artifact({FILE: dump(stream), **files})


def changes(stream: Mapping[str, Lora]) -> dict[str, Tensor]:
    """ΔW (D, K) of every layer, float64."""
    return {name: each.scaling * each.b_DR.double() @ each.a_RK.double() for name, each in stream.items()}
