"""Keeping a new adapter out of the directions that earlier tasks use.

Shape suffixes: M modules (of equal width), D output width, R rank of the new adapter, H rank of the history.
Source: Wan et al., arXiv:2505.22358, section 3.3 (output side); one orthonormal basis per module instead of a list of
tasks is ours. The input side follows gradient projection memory, Saha et al., arXiv:2103.09762.
"""

import torch
from torch import Tensor


def penalty(w2_MDR: Tensor, basis_MDH: Tensor) -> Tensor:
    """L_orth = Σ over modules ‖Qᵀ W2‖_F², one batched product.

    Args:
        w2_MDR: (M, D, R) raw up-projections, before Γ.
        basis_MDH: (M, D, H) orthonormal columns; zero columns (padding) add nothing.

    Returns:
        Scalar.
    """
    return (basis_MDH.transpose(1, 2) @ w2_MDR).square().sum()


def overlap(w2_DR: Tensor, gamma_R: Tensor, basis_DH: Tensor) -> Tensor:
    """‖Qᵀ W2 Γ‖_F² / ‖W2 Γ‖_F², the share of an adapter's output energy inside the historical subspace.

    Scale-free, unlike the penalty, which shrinking W2 lowers too. 0 for an adapter that writes nothing.

    Args:
        w2_DR: (…, D, R).
        gamma_R: (…, R).
        basis_DH: (…, D, H) orthonormal columns.

    Returns:
        (…) in [0, 1].
    """
    written_DR = w2_DR * gamma_R[..., None, :]
    total = written_DR.square().sum((-1, -2))
    inside = (basis_DH.transpose(-1, -2) @ written_DR).square().sum((-1, -2))
    return inside / total.clamp_min(torch.finfo(total.dtype).tiny)


def project_out(columns_DR: Tensor, basis_DH: Tensor) -> Tensor:
    """(I − QQᵀ) V: the part of V (…, D, R) outside the span of the orthonormal basis (…, D, H)."""
    return columns_DR - basis_DH @ (basis_DH.transpose(-1, -2) @ columns_DR)
