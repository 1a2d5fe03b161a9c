"""The budget a module chooses for itself: a trainable soft threshold over its dimensions.

Shape suffixes: R rank. Source: Wan et al., arXiv:2505.22358, section 3 (OA-Adapter).
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def soft_threshold(g_R: Tensor, tau: Tensor) -> Tensor:
    """γ_i = sign(g_i) · max(|g_i| − τ, 0).

    Args:
        g_R: (R,) trainable gates.
        tau: scalar threshold, τ ≥ 0.

    Returns:
        (R,) γ. Gradients: ∂γ_i/∂g_i = 1 and ∂γ_i/∂τ = −sign(g_i) where |g_i| > τ, both 0 elsewhere: a dimension that is
        off comes back only when τ falls below |g_i|.
    """
    return g_R.sign() * torch.relu(g_R.abs() - tau)


def floored_threshold(g_R: Tensor, tau: Tensor, min_rank: int) -> Tensor:
    """|τ|, capped by the (min_rank + 1)-th largest |g| so that at least `min_rank` dimensions stay on.

    While τ is capped, gradients that lower it pass straight through, so the active dimensions can pull τ down again and
    re-open the rest; those that would raise it further do not, or τ would wander off beyond recall.
    With min_rank = 0 this is |τ|, which is how τ ≥ 0 is held; τ₀ = 0 stays 0, the full budget.

    Args:
        g_R: (R,) gates.
        tau: (1,) or scalar raw threshold.
        min_rank: 0 ≤ min_rank ≤ R.

    Returns:
        Threshold of τ's shape.
    """
    tau = tau.abs()
    if min_rank == 0:
        return tau
    magnitudes_R = g_R.detach().abs().sort(descending=True).values
    cap = magnitudes_R[min_rank] if min_rank < g_R.numel() else magnitudes_R.new_zeros(())
    through = tau - tau.detach()  # 0, and carries the gradient
    if through.requires_grad:
        through.register_hook(lambda gradient: torch.where(tau > cap, gradient.clamp(min=0), gradient))
    return torch.minimum(tau, cap).detach() + through


def budget_loss(gammas: Iterable[Tensor]) -> Tensor:
    """L_budget = mean over modules of Σ_i |γ_i|, a pull towards fewer dimensions.

    Ours, not the paper's. Its gradient alone always raises τ and lowers |g|; the task's gradient opposes it.

    Args:
        gammas: one (R,) tensor a module, at least one.

    Returns:
        Scalar, in units of γ.
    """
    return torch.stack([gamma_R.abs().sum() for gamma_R in gammas]).mean()
