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


def common_shift(margins: Sequence[Tensor], costs: Sequence[int], floors: Sequence[Tensor], allowed: float) -> Tensor:
    """The least δ ≥ 0 by which all thresholds must rise together so that the open dimensions cost at most `allowed`.

        Σ cost_i over {i : |g_i| − τ_m(i) > δ}  ≤  allowed

    Dimensions that a module's floor keeps are open for every δ, and their cost counts.

    Args:
        margins: for each group (M, R) |g| − τ, without gradient.
        costs: for each group the parameters of one dimension, 2·D + 1.
        floors: for each group (M,) dimensions that a module keeps at least.
        allowed: parameters.

    Returns:
        Scalar δ. No host synchronisation.
    """
    flat, price = [], []
    for margin_MR, cost, floor_M in zip(margins, costs, floors, strict=True):
        rank_MR = margin_MR.argsort(dim=-1, descending=True).argsort(dim=-1)  # 0 is the module's largest
        flat.append(torch.where(rank_MR < floor_M[:, None], torch.inf, margin_MR).flatten())
        price.append(margin_MR.new_full((margin_MR.numel(),), float(cost), dtype=torch.float64))
    margin, order = torch.cat(flat).sort(descending=True)
    spent = torch.cat(price)[order].cumsum(0)
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
