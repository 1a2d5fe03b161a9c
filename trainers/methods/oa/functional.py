"""The functional penalty: how much a new adapter changes what its layers give on earlier tasks.

    L_f = Σ_modules tr(U C̄ Uᵀ),   U = W2 · diag(γ) · W1,   C̄ = Σ_{earlier tasks} C_s / tr(C_s),   C_s = Σ h hᵀ

tr(U C_s Uᵀ) / tr(C_s) = Σ ‖U h‖² / Σ ‖h‖² is the share of task s's outputs by which the layer would be wrong. C̄ is kept
as a few eigenpairs and an isotropic rest, see `Metric`.

Shape suffixes: M modules (of equal width), D output width, R rank of the new adapter, K eigenpairs.
The penalty is ours; C_s is what gradient projection memory takes its bases from, Saha et al., arXiv:2103.09762.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A positive semi-definite matrix (D, D): V diag(λ) Vᵀ + ρ (I − V Vᵀ), V orthonormal, ρ ≤ every λ.

    Attributes:
        columns_DK: V, float32.
        values_K: λ, float32, largest first.
        rest: ρ, a scalar in float32.
    """

    columns_DK: Tensor
    values_K: Tensor
    rest: Tensor

    @staticmethod
    def zero(width: int) -> "Metric":
        """The zero matrix."""
        return Metric(torch.zeros(width, 0), torch.zeros(0), torch.zeros(()))

    @staticmethod
    def of(matrix_DD: Tensor, most: int) -> "Metric":
        """The `most` leading eigenpairs of a positive semi-definite matrix, and a rest that keeps its trace.

        It is decomposed in float64. No matrix with these eigenvectors and an isotropic rest is nearer to it.
        """
        values_D, vectors_DD = torch.linalg.eigh(matrix_DD.double())
        values_D, vectors_DD = values_D.flip(0).clamp_min(0), vectors_DD.flip(1)
        kept_K = values_D[:most].float()
        free = max(1, len(values_D) - most)
        rest = (
            ((values_D.sum() - kept_K.double().sum()) / free).clamp_min(0) if most < len(values_D) else torch.zeros(())
        )
        return Metric(vectors_DD[:, :most].float().contiguous(), kept_K, rest.float())

    @property
    def trace(self) -> float:
        """Σ λ + (D − K) ρ."""
        width, pairs = self.columns_DK.shape
        return float(self.values_K.double().sum() + (width - pairs) * self.rest.double())

    @property
    def factor_DK(self) -> Tensor:
        """A (D, K) with A Aᵀ + ρ I = the matrix: V √(λ − ρ)."""
        return self.columns_DK * (self.values_K - self.rest).clamp_min(0).sqrt()

    def dense(self) -> Tensor:
        """The matrix (D, D) in float64."""
        v_DK, rest = self.columns_DK.double(), self.rest.double()
        eye_DD = torch.eye(len(v_DK), dtype=torch.float64, device=v_DK.device)
        return (v_DK * (self.values_K.double() - rest)) @ v_DK.T + rest * eye_DD

    def with_task(self, moment_DD: Tensor, most: int) -> "Metric":
        """C̄ with one more task, C̄ + C / tr(C), in `most` eigenpairs; unchanged by a task of which nothing was read."""
        trace = moment_DD.double().trace()
        return Metric.of(self.dense() + moment_DD.double() / trace, most) if trace > 0 else self


def penalty(w1_MRD: Tensor, written_MDR: Tensor, factor_MDK: Tensor, rest_M: Tensor) -> Tensor:
    """L_f = Σ over modules Σ_ij (W1 C̄ W1ᵀ)_ij (Γ W2ᵀ W2 Γ)_ij, in small batched products.

    Args:
        w1_MRD: (M, R, D) as the forward pass uses it.
        written_MDR: (M, D, R) W2 Γ.
        factor_MDK: (M, D, K) A with A Aᵀ + ρ I = C̄; zero columns (padding) add nothing.
        rest_M: (M,) ρ.

    Returns:
        Scalar.
    """
    read_MRK = w1_MRD @ factor_MDK
    seen_MRR = read_MRK @ read_MRK.mT + rest_M[:, None, None] * (w1_MRD @ w1_MRD.mT)
    return (seen_MRR * (written_MDR.mT @ written_MDR)).sum()


def dense_penalty(w1_RD: Tensor, written_DR: Tensor, metric: Metric) -> float:
    """tr(U C̄ Uᵀ) of one module in float64, from U itself: Σ_k (λ_k − ρ) ‖U v_k‖² + ρ ‖U‖_F²."""
    u_DD = written_DR.double() @ w1_RD.double()
    along_K = (u_DD @ metric.columns_DK.double()).square().sum(0)
    above_K = metric.values_K.double() - metric.rest.double()
    return float((above_K * along_K).sum() + metric.rest.double() * u_DD.square().sum())
