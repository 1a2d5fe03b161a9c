"""A module's cumulative subspaces as orthonormal bases: Q of what committed adapters write, P of what they read.

Shape suffixes: D output width, R rank of one adapter, H rank of the history, N new directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIXED = 1e-6  # new directions are taken again if more than this of them lies within the basis that they extend


@dataclass(frozen=True)
class Basis:
    """Orthonormal columns (D, H) and their singular values or eigenvalues (H,)."""

    columns_DH: Tensor
    spectrum_H: Tensor

    @staticmethod
    def empty(width: int) -> "Basis":
        """A basis without directions, in a space of that width."""
        return Basis(torch.zeros(width, 0), torch.zeros(0))

    @property
    def occupancy(self) -> float:
        """H / D, the share of the space that is filled."""
        return self.columns_DH.shape[1] / self.columns_DH.shape[0]

    def joined(self, *added: "Basis") -> "Basis":
        """All directions in one basis, those of this one first. Each basis must be orthogonal to those before it."""
        every = (self, *added)
        return Basis(torch.cat([b.columns_DH for b in every], 1), torch.cat([b.spectrum_H for b in every]))

    def limited(self, most: int) -> "Basis":
        """The `most` directions of largest singular value, in their order; all if there are no more."""
        if self.spectrum_H.numel() <= most:
            return self
        kept = self.spectrum_H.argsort(descending=True, stable=True)[:most].sort().values
        return Basis(self.columns_DH[:, kept].contiguous(), self.spectrum_H[kept])


def principal_angles(a_DR: Tensor, b_DS: Tensor) -> Tensor:
    """Angles between the column spaces of two matrices of full column rank, in degrees, smallest first; with a stack of
    matrices (N, D, S), those to each.

    θ_i = arccos σ_i(Q_aᵀ Q_b); small ones from sines, since the cosine is flat there. Source: Björck and Golub,
    Mathematics of Computation 27 (1973), algorithm 1 and section 4.

    Returns:
        (min(R, S),) or (N, min(R, S)) float64 in [0, 90].
    """
    q_DR, q_DS = (torch.linalg.qr(matrix.double()).Q for matrix in (a_DR, b_DS))
    if q_DR.shape[-1] < q_DS.shape[-1]:
        q_DR, q_DS = q_DS, q_DR
    cosines = torch.linalg.svdvals(q_DR.mT @ q_DS).clamp(max=1)
    sines = torch.linalg.svdvals(q_DS - q_DR @ (q_DR.mT @ q_DS)).flip(-1).clamp(max=1)
    return torch.where(cosines > 0.7, sines.asin(), cosines.acos()).rad2deg()


def extend_basis(basis_DH: Tensor, columns_DR: Tensor, tolerance: float = 1e-6) -> Basis:
    """New orthonormal directions that `columns_DR` adds to the span of `basis_DH`.

    The residual (I − QQᵀ)A is taken twice (re-orthogonalised) and decomposed as UΣVᵀ in float64; a direction is kept
    if σ_i > tolerance · σ_max(A). Any column of A is then in span [Q, U] to that tolerance.

    Args:
        basis_DH: (D, H) orthonormal columns, H ≥ 0.
        columns_DR: (D, R) active columns W2Γ of the task, R ≥ 0.
        tolerance: relative to the largest singular value of A.

    Returns:
        U (D, N) float32 and its singular values (N,) float32, 0 ≤ N ≤ min(R, D − H).
    """
    a_DR = columns_DR.double()
    if not a_DR.numel() or not a_DR.any():
        return Basis.empty(columns_DR.shape[0])
    q_DH = basis_DH.double()
    residual_DR = a_DR - q_DH @ (q_DH.T @ a_DR)
    residual_DR = residual_DR - q_DH @ (q_DH.T @ residual_DR)
    u_DR, sigma_R, _ = torch.linalg.svd(residual_DR, full_matrices=False)
    room = basis_DH.shape[0] - basis_DH.shape[1]
    kept = min(int((sigma_R > tolerance * torch.linalg.matrix_norm(a_DR, 2)).sum()), room)
    return Basis(u_DR[:, :kept].float().contiguous(), sigma_R[:kept].float().contiguous())


def leading_directions(basis_DH: Tensor, moment_DD: Tensor, energy: float) -> Basis:
    """New orthonormal directions that bring the share of a second moment covered by `basis_DH` up to `energy`.

    With C = E[h hᵀ] (uncentred), the residual (I − PPᵀ) C (I − PPᵀ) is decomposed in float64 and its eigenvectors join,
    largest eigenvalue first, until tr(PᵀCP) ≥ energy · tr(C). Source: Saha et al., arXiv:2103.09762, eq. 9.

    If the residual has hardly any energy, eigenvectors of eigenvalues near 0 mix with the columns of P, whose
    eigenvalue is 0. The residual is then decomposed again within an orthonormal basis of what is outside P.

    Args:
        basis_DH: (D, H) orthonormal columns P, H ≥ 0.
        moment_DD: (D, D) symmetric, positive semi-definite, any scale.
        energy: share in (0, 1).

    Returns:
        U (D, N) float32 and their eigenvalues (N,) float32; N = 0 if P covers enough already. The columns of U are
        orthonormal, and orthogonal to P, to 1e-6.
    """
    c_DD, p_DH = moment_DD.double(), basis_DH.double()
    keep_DD = torch.eye(len(c_DD), dtype=torch.float64) - p_DH @ p_DH.T
    lacking = energy * c_DD.trace() - (p_DH * (c_DD @ p_DH)).sum()
    room = basis_DH.shape[0] - basis_DH.shape[1]
    values_N, u_DN = _leading(keep_DD @ c_DD @ keep_DD, lacking, room)
    if (p_DH.T @ u_DN).norm() > MIXED:
        outside_DR = torch.linalg.qr(p_DH, mode="complete").Q[:, p_DH.shape[1] :]
        values_N, u_RN = _leading(outside_DR.T @ c_DD @ outside_DR, lacking, room)
        u_DN = outside_DR @ u_RN
    return Basis(u_DN.float().contiguous(), values_N.float().contiguous())


def _leading(moment_DD: Tensor, lacking: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (N,) that together reach `lacking`, at most `most`, and their eigenvectors (D, N)."""
    values_D, vectors_DD = torch.linalg.eigh(moment_DD)
    values_D, vectors_DD = values_D.flip(0).clamp_min(0), vectors_DD.flip(1)
    needed = int((values_D.cumsum(0) < lacking).sum()) + 1 if lacking > 0 else 0
    return values_D[: min(needed, most)], vectors_DD[:, : min(needed, most)]
