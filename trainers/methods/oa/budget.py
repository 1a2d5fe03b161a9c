"""The budget of a module, which is trained: a soft threshold over its dimensions.

Shape suffixes: M modules of one group, R rank. Source: Wan et al., arXiv:2505.22358, section 3 (OA-Adapter).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def soft_threshold(g: Tensor, tau: Tensor) -> Tensor:
    """γ_i = sign(g_i) · max(|g_i| − τ, 0).

    Args:
        g: (…, R) trainable gates.
        tau: (…, 1) or scalar threshold, τ ≥ 0.

    Returns:
        (…, R) γ. Gradients: ∂γ_i/∂g_i = 1 and ∂γ_i/∂τ = −sign(g_i) if |g_i| > τ, else both 0. So a dimension that is
        off comes back only when τ falls below |g_i|.
    """
    return g.sign() * torch.relu(g.abs() - tau)


def floored_threshold(g_MR: Tensor, tau_M: Tensor, floor_M: Tensor | None, shift: Tensor | float = 0.0) -> Tensor:
    """|τ| + shift, capped by the (floor + 1)-th largest |g| so that at least `floor` dimensions stay on.

    While τ is capped, gradients that lower it pass straight through, so the active dimensions can pull τ down again and
    re-open the rest. Gradients that would raise it further are cut off, since τ could then grow without limit.
    With a floor of 0 the result is |τ| + shift; the absolute value keeps τ ≥ 0. τ₀ = 0 stays 0, the full budget.

    Args:
        g_MR: (M, R) gates.
        tau_M: (M,) raw thresholds.
        floor_M: (M,) whole numbers, 0 ≤ floor ≤ R; None if all are 0.
        shift: a constant ≥ 0, see `common_shift`.

    Returns:
        (M,) thresholds.
    """
    tau_M = tau_M.abs()
    if floor_M is None:
        return tau_M + shift
    cap_M = floor_cap(g_MR, floor_M)
    through_M = tau_M - tau_M.detach()  # 0, and carries the gradient
    if through_M.requires_grad:
        capped_M = tau_M.detach() > cap_M
        through_M.register_hook(lambda gradient: torch.where(capped_M, gradient.clamp(min=0), gradient))
    return torch.minimum(tau_M + shift, cap_M).detach() + through_M


def floor_cap(g_MR: Tensor, floor_M: Tensor) -> Tensor:
    """The highest threshold (M,) that leaves `floor` dimensions on: the (floor + 1)-th largest |g|; ∞ for floor 0."""
    ordered_MR = g_MR.detach().abs().sort(dim=-1, descending=True).values
    ordered_MR = torch.nn.functional.pad(ordered_MR, (0, 1))  # floor = R: threshold 0
    cap_M = ordered_MR.gather(-1, floor_M[:, None]).squeeze(-1)
    return torch.where(floor_M == 0, torch.inf, cap_M)


def margins(g_MR: Tensor, tau_M: Tensor, floor_M: Tensor) -> Tensor:
    """By how much each dimension is above its threshold: |g_i| − |τ|, or ∞ if the module's floor keeps it open.

    The floor keeps the `floor` largest |g|, the first of equal ones; but none with g_i = 0, whose γ is always 0.

    Args:
        g_MR: (M, R) gates.
        tau_M: (M,) raw thresholds.
        floor_M: (M,) whole numbers, 0 ≤ floor ≤ R.

    Returns:
        (M, R), without gradient.
    """
    size_MR = g_MR.detach().abs()
    place_MR = size_MR.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)  # 0 is the module's largest
    kept_MR = (place_MR < floor_M[:, None]) & (size_MR > 0)
    return torch.where(kept_MR, torch.inf, size_MR - tau_M.detach().abs()[:, None])


def exact_gates(g_MR: Tensor, threshold_M: Tensor, open_MR: Tensor) -> tuple[Tensor, Tensor]:
    """γ (M, R) and thresholds (M,), such that γ_i ≠ 0 if and only if dimension i is open, in any dtype.

    The sum |τ| + shift is rounded, so it may be a unit in the last place below a |g_i| that the shift is to turn off,
    or above one that it is to leave on. The threshold is therefore put below the least open |g|, and a dimension that
    is not open has γ = 0. Gradients are those of `soft_threshold` over the open dimensions.

    Args:
        g_MR: (M, R) gates, ≠ 0 if open.
        threshold_M: (M,) of `floored_threshold`.
        open_MR: (M, R) whether a dimension is to be open.
    """
    least_M = torch.where(open_MR, g_MR.detach().abs(), torch.inf).amin(-1)
    below_M = least_M * (1 - torch.finfo(g_MR.dtype).eps)  # less than `least_M` by one or two units in the last place
    through_M = threshold_M - threshold_M.detach()  # 0, and carries the gradient
    threshold_M = torch.where(threshold_M.detach() > below_M, below_M + through_M, threshold_M)
    return torch.where(open_MR, soft_threshold(g_MR, threshold_M[:, None]), 0.0), threshold_M


def common_shift(margins: Sequence[Tensor], costs: Sequence[int], allowed: float) -> Tensor:
    """The least δ ≥ 0 by which all thresholds must rise together so that the open dimensions cost at most `allowed`.

        Σ cost_i over {i : margin_i > δ}  ≤  allowed

    Dimensions that a module's floor keeps have margin ∞: they are open for every δ, and their cost counts.

    Args:
        margins: for each group (M, R), see the function `margins`.
        costs: for each group the parameters of one dimension, 2·D + 1.
        allowed: parameters.

    Returns:
        Scalar δ. No host synchronisation.
    """
    margin, order = torch.cat([margin_MR.flatten() for margin_MR in margins]).sort(descending=True)
    prices = [
        m.new_full((m.numel(),), float(cost), dtype=torch.float64) for m, cost in zip(margins, costs, strict=True)
    ]
    spent = torch.cat(prices)[order].cumsum(0)
    over = torch.where((spent > allowed) & margin.isfinite(), margin, 0.0)
    return over.max().clamp_min(0.0)


def cap_schedule(step: int, total_steps: int, full: float, final: float) -> float:
    """Parameters allowed at `step`: `full` for the first tenth of all steps, a cubic fall, `final` from six tenths on.

    The cubic is that of AdaLoRA, Zhang et al., arXiv:2303.10512, eq. 12. Unlike there, nothing is pruned by a second
    criterion: the thresholds rise together, see `common_shift`.
    """
    begin, end = 0.1 * total_steps, 0.6 * total_steps
    left = 1 - min(max((step - begin) / max(end - begin, 1e-9), 0.0), 1.0)
    return final + max(full - final, 0.0) * left**3
