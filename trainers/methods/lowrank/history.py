"""Low-rank updates of all tasks as one: summed in a layer's weight, or stacked.

    W_t = W0 + Σ_{s ≤ t} c_s B_s A_s

Shape suffixes: D output width, K input width, R rank of one task, C of all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.methods.base import Lora
from trainers.methods.oa.rounding import Change, Rounding, write
from trainers.methods.targets import Layer, dense


def added(weight_DK: Tensor, updates: Sequence[Lora]) -> Tensor:
    """W + Σ c_s B_s A_s in float32, in the order of the tasks, on the device of W."""
    weight_DK = weight_DK.float()
    for update in updates:
        a_RK, b_DR = update.a_RK.to(weight_DK.device), update.b_DR.to(weight_DK.device)
        weight_DK = weight_DK + update.scaling * (b_DR @ a_RK)
    return weight_DK


def write_sum(module: Layer, updates: Sequence[Lora], rounding: Rounding, name: str) -> Change:
    """Writes W0 + Σ c_s B_s A_s into an unadapted layer, see `rounding.write`; `name` is the layer's."""
    weight_DK, _ = dense(module)
    return write(weight_DK, added(weight_DK, updates), rounding, f"{name}.weight")


def stacked(updates: Sequence[Lora]) -> Lora:
    """A (C, K) and B (D, C) of the sum, with every scaling in B."""
    return Lora(torch.cat([u.a_RK for u in updates]), torch.cat([u.scaling * u.b_DR for u in updates], dim=1))
