"""Adapters on the outputs of frozen linear layers.

    h_t = (I + U_t) h_{t−1},   U_t = W2 · diag(γ) · W1,   h_{t−1} = the layer's output with all earlier tasks in it

Shape suffixes: N tokens, D output width of the adapted layer, R rank, C rank of a concatenated history.
Source: Wan et al., arXiv:2505.22358. The adapter reads the layer's output, so W1 is (R, D), not (R, K).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from trainers.methods.base import Moment
from trainers.methods.targets import Layer

Pair = tuple[Tensor, Tensor]


class LowRank(torch.autograd.Function):
    """h + up (down h) for h (…, D), down (R, D), up (D, R), in five passes over tokens × D forward and backward.

    Autograd's own formula stores dz·down and adds it in another pass. Here both additions are part of their product.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, down_RD: Tensor, up_DR: Tensor) -> Tensor:
        """Saves h only if `down` is trained, and z only if `up` is: a frozen matrix needs no activation."""
        h_ND = h.reshape(-1, h.shape[-1])
        z_NR = h_ND @ down_RD.T
        down, up = ctx.needs_input_grad[1:]
        ctx.save_for_backward(h_ND if down else None, z_NR if up else None, down_RD, up_DR)
        y_ND = torch.addmm(h_ND, z_NR, up_DR.T)
        return torch.ops.aten._unsafe_view(y_ND, h.shape)  # no view to autograd: models change outputs in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """dh = dy + dz·down, ddown = dzᵀh, dup = dyᵀz, with dz = dy·up."""
        h_ND, z_NR, down_RD, up_DR = ctx.saved_tensors
        dy_ND = gradients[0].reshape(-1, gradients[0].shape[-1])
        dz_NR = dy_ND @ up_DR
        dh = torch.addmm(dy_ND, dz_NR, down_RD).view(gradients[0].shape) if ctx.needs_input_grad[0] else None
        ddown_RD = None if h_ND is None else dz_NR.T @ h_ND
        return dh, ddown_RD, None if z_NR is None else dy_ND.T @ z_NR


def low_rank(h: Tensor, down_RD: Tensor, up_DR: Tensor) -> Tensor:
    """h + up (down h). A compiler gets the plain formula, since it can fuse the additions with the code around it."""
    if torch.compiler.is_compiling():
        return h + (h @ down_RD.T) @ up_DR.T
    return LowRank.apply(h, down_RD, up_DR)


class Adapted:
    """Mixed into a frozen linear layer: adds what a concatenated history and the task in training write.

    `history` and `pair` are (down (R, D), up (D, R)) in the dtype of the layer's output, or None. `moment`, if set,
    sums h_{t−1} h_{t−1}ᵀ, and `felt` the gradient at h_t likewise. `narrow` is the dtype of the layer's output if its
    weights are held in float32 instead.
    """

    narrow: torch.dtype | None = None
    history: Pair | None = None
    pair: Pair | None = None
    moment: Moment | None = None
    felt: Moment | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (…, K) → h_t (…, D)."""
        linear = super().forward  # type: ignore[misc]
        h: Tensor = linear(x) if self.narrow is None else linear(x.float()).to(self.narrow)
        if self.history is not None:
            h = low_rank(h, *self.history)
        if self.moment is not None:
            self.moment.add(h)
        h = h if self.pair is None else low_rank(h, *self.pair)
        return h if self.felt is None else heard(h, self.felt)


def heard(h: Tensor, moment: Moment) -> Tensor:
    """h itself, with a graph; in the backward pass its gradient is added to the moment."""
    if not h.requires_grad:
        h = h.detach().requires_grad_().clone()  # no leaf, since models change outputs in place
    h.register_hook(moment.add)
    return h


@cache
def adapted_class(kind: type[nn.Module], mixin: type["Adapted"]) -> type[nn.Module]:
    """`kind` with `mixin` before it; instances keep their parameters, names, hooks and `.weight`."""
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})


def attach(modules: Mapping[str, Layer], mixin: type["Adapted"] = Adapted) -> None:
    """Makes the layers ready for adapters by changing their class, to one with `mixin` before it. Until `use`, their
    outputs are unchanged."""
    for module in modules.values():
        if not isinstance(module, Adapted):
            module.__class__ = adapted_class(type(module), mixin)  # type: ignore[arg-type]


def detach(modules: Mapping[str, Layer]) -> None:
    """Gives the layers their own class back, and removes adapters and history."""
    for module in modules.values():
        if isinstance(module, Adapted):
            module.__class__ = type(module).__mro__[2]
            for name in ("narrow", "history", "pair", "moment", "felt"):
                module.__dict__.pop(name, None)


def use(modules: Mapping[str, Layer], pairs: Mapping[str, Pair]) -> None:
    """Puts a task's effective matrices on its layers; layers not in `pairs` add nothing."""
    for name, module in modules.items():
        module.__dict__["pair"] = pairs.get(name)
