"""Low-rank updates of all tasks as one: summed in a layer's weight, or stacked.

    W_t = W0 + Σ_{s ≤ t} c_s B_s A_s

Shape suffixes: D output width, K input width, R rank of one task, C of all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.methods.base import Lora
from trainers.methods.oa.rounding import Change, Rounding, rounded
from trainers.methods.targets import Layer, dense


def added(weight_DK: Tensor, updates: Sequence[Lora]) -> Tensor:
    """W + Σ c_s B_s A_s in float32, in the order of the tasks, on the device of W."""
    weight_DK = weight_DK.float()
    for update in updates:
        a_RK, b_DR = update.a_RK.to(weight_DK.device), update.b_DR.to(weight_DK.device)
        weight_DK = weight_DK + update.scaling * (b_DR @ a_RK)
    return weight_DK


def write_sum(module: Layer, updates: Sequence[Lora], rounding: Rounding, name: str) -> Change:
    """Writes W0 + Σ c_s B_s A_s into an unadapted layer, rounded once to its dtype; `name` is the layer's.

    Returns what of the change is in the layer then. It is not measured for float32, which takes the change as it is.
    """
    old_DK, _ = dense(module)
    new_DK = added(old_DK, updates)
    stored_DK = rounded(new_DK, old_DK.dtype, rounding, f"{name}.weight")
    change = Change() if old_DK.dtype == torch.float32 else Change.of(old_DK, new_DK, stored_DK)
    old_DK.copy_(stored_DK)  # a view of the parameter
    return change


def stacked(updates: Sequence[Lora]) -> Lora:
    """A (C, K) and B (D, C) of the sum, with every scaling in B."""
    return Lora(torch.cat([u.a_RK for u in updates]), torch.cat([u.scaling * u.b_DR for u in updates], dim=1))
