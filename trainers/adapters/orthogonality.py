"""Keeping a new adapter out of the directions that earlier tasks use.

Shape suffixes: M modules, D output width, R rank of the new adapter, H rank of the history.
Source: Wan et al., arXiv:2505.22358, section 3.3 (output side); one orthonormal basis a module instead of a list of
tasks is ours. The input side follows gradient projection memory, Saha et al., arXiv:2103.09762.
"""

from collections import defaultdict
from collections.abc import Mapping

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
        w2_DR: (D, R).
        gamma_R: (R,).
        basis_DH: (D, H) orthonormal columns.

    Returns:
        Scalar in [0, 1].
    """
    written_DR = w2_DR * gamma_R
    total = written_DR.square().sum()
    return (basis_DH.T @ written_DR).square().sum() / total.clamp_min(torch.finfo(total.dtype).tiny)


def project_out(columns_DR: Tensor, basis_DH: Tensor) -> Tensor:
    """(I − QQᵀ) V: the part of V (D, R) outside the span of the orthonormal basis (D, H)."""
    return columns_DR - basis_DH @ (basis_DH.T @ columns_DR)


class BatchedBases:
    """The bases Q of all modules, stacked by output width so that the penalty is one batched product a width."""

    def __init__(self, bases: Mapping[str, Tensor]) -> None:
        """Groups `bases`, a mapping from module name to (D, H) float32, and pads each group to its largest H."""
        by_width: dict[int, list[str]] = defaultdict(list)
        for name, basis_DH in bases.items():
            if basis_DH.shape[1]:
                by_width[basis_DH.shape[0]].append(name)
        self.groups: list[tuple[list[str], Tensor]] = []
        for names in by_width.values():
            widest = max(bases[name].shape[1] for name in names)
            padded = [torch.nn.functional.pad(bases[name], (0, widest - bases[name].shape[1])) for name in names]
            self.groups.append((names, torch.stack(padded)))

    def penalty(self, w2: Mapping[str, Tensor]) -> Tensor:
        """Σ over modules ‖Qᵀ W2‖_F² for whole matrices `w2`, module name → (D, R); 0 without history."""
        total = torch.zeros((), device=next(iter(w2.values())).device)
        for names, basis_MDH in self.groups:
            total = total + penalty(torch.stack([w2[name] for name in names]), basis_MDH)
        return total
