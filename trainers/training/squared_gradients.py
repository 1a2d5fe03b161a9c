"""How strongly each weight moves the loss of single rows: the diagonal of the empirical Fisher information.

A row's own gradient is squared, not that of a batch, in which rows cancel out. So each row is a backward pass.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainers.objectives.base import EncodedSplit


def squared_gradients(values: Mapping[str, Tensor], split: EncodedSplit, most: int | None) -> dict[str, Tensor]:
    """F_v = 1/N Σ_n (∂ℓ_n/∂v)² over N rows of a split and all ranks, ℓ_n the sum of the row's loss terms. Collective.

    Args:
        values: leaves that the model computes with, by name.
        most: at most so many rows, evenly spread; None takes all.

    Returns:
        float32, in the shape of each value; 0 for one that no loss depends on.
    """
    rows = spread(len(split.terms), most)
    sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in values.items()}
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):  # every row would be compiled for its length
        for row in rows[dist.get_rank() :: dist.get_world_size()]:
            loss = split.losses(split.batch(np.array([row]))).sum()
            gradients = torch.autograd.grad(loss, [*values.values()], allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient.float(), gradient.float())
    for total in sums.values():
        dist.all_reduce(total)
    return {name: total / len(rows) for name, total in sums.items()}


def spread(count: int, most: int | None) -> np.ndarray:
    """Indices of at most `most` of `count` rows, at equal distances from the first to the last."""
    if most is None or most >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)
