"""A frozen base in eight bits: weights as float8 with one scale per row, dequantised to the model's dtype on use.

It halves the memory of a bfloat16 base's linear layers. Embeddings, norms and the output head stay as they are.
Shape suffixes: D output width, K input width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainers.zero import size_of

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Float8Product(torch.autograd.Function):
    """x Wᵀ + b with W = s · w8, for a frozen W: the backward pass computes W again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w8_DK: Tensor, scale_D: Tensor, bias_D: Tensor | None) -> Tensor:
        """x (…, K) → (…, D)."""
        ctx.save_for_backward(w8_DK, scale_D)
        return nn.functional.linear(x, whole(w8_DK, scale_D, x.dtype), bias_D)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """dx = dy · W."""
        w8_DK, scale_D = ctx.saved_tensors
        return gradients[0] @ whole(w8_DK, scale_D, gradients[0].dtype), None, None, None


class Float8Linear(nn.Linear):
    """A frozen linear layer that keeps its weight as float8 (E4M3) and one scale per row; `.weight` dequantises it."""

    w8: Tensor
    scale: Tensor
    dtype: torch.dtype

    def forward(self, x: Tensor) -> Tensor:
        """x (…, K) → (…, D)."""
        return Float8Product.apply(x, self.w8, self.scale, self.bias)


def whole(w8_DK: Tensor, scale_D: Tensor, dtype: torch.dtype) -> Tensor:
    """W = s · w8 (D, K), rounded once to `dtype`: the scales stay in float32."""
    if torch.compiler.is_compiling():
        return (w8_DK.to(dtype) * scale_D[:, None]).to(dtype)
    return torch.mul(w8_DK.to(dtype), scale_D[:, None], out=torch.empty_like(w8_DK, dtype=dtype))  # no float32 W


def quantise(model: Any) -> None:
    """Makes every `nn.Linear` of a frozen model but its output head a `Float8Linear`, in place.

    scale_d = max_k |W_dk| / 448, w8 = round(W / scale): a relative error of at most 2^-4 per element, zero on average.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in list(model.modules()):
        if type(module) is nn.Linear and module is not head:
            module.dtype = module.weight.dtype  # type: ignore[assignment]
            weight_DK = module.weight.detach().float()
            scale_D = weight_DK.abs().amax(dim=1).clamp_min(1e-12) / LARGEST
            del module._parameters["weight"]
            module.__class__ = Float8Linear
            module.register_buffer("w8", (weight_DK / scale_D[:, None]).to(torch.float8_e4m3fn))
            module.register_buffer("scale", scale_D)


def parameters_of(model: nn.Module) -> int:
    """The number of a base's parameters, quantised and shared-out ones included."""
    kept = sum(module.w8.numel() for module in model.modules() if isinstance(module, Float8Linear))
    return kept + sum(map(size_of, model.parameters()))


# Set after the class is made, since nn.Linear declares `weight` a parameter.
Float8Linear.weight = property(lambda self: whole(self.w8, self.scale, self.dtype))  # type: ignore[assignment]
