"""The functional penalty: how much a new adapter changes what its layers give on earlier tasks, where it matters.

    L_f = Σ_{earlier tasks s} Σ_modules tr(U C_s Uᵀ G_s) / z_s,   U = W2 · diag(γ) · W1,   C_s = Σ h hᵀ,  G_s = Σ g gᵀ
    z_s = mean over modules of tr(C_s) · tr(G_s) / D

h is what the adapter reads of task s, and g the gradient of that task's loss at what its layer gives, by token. If the
two are independent, tr(U C Uᵀ G) is Σ (gᵀ U h)²: the change of the loss to first order, squared, as in K-FAC (Martens
and Grosse, arXiv:1503.05671). By z_s tasks count alike: if no direction mattered more than others, the terms of a task
were tr(U C Uᵀ) / tr(C) on average over modules, the share of its outputs that changes. With `metric: none` they are.

C_s and G_s are kept as a few eigenpairs and an isotropic rest, see `Metric`, and task by task, since one C and one G
for all tasks protect less. The penalty is ours.

Shape suffixes: M modules (of equal width), D output width, R rank of the new adapter, S tasks, K eigenpairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WHOLE, SPARE, ROUNDS = 512, 8, 12  # width up to which all pairs are found; columns and rounds of the iteration


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
    def isotropic(width: int, value: float) -> "Metric":
        """`value` · I."""
        return Metric(torch.zeros(width, 0), torch.zeros(0), torch.tensor(value))

    @staticmethod
    def of(matrix_DD: Tensor, most: int) -> "Metric":
        """The `most` leading eigenpairs of a positive semi-definite matrix, and a rest that keeps its trace.

        It is decomposed in float64: as a whole up to a width of `WHOLE`, else within a subspace that is iterated, as
        the time for all pairs grows with the cube of the width. The rest is exact either way.
        """
        a_DD = matrix_DD.double()
        width = len(a_DD)
        if width <= max(WHOLE, 4 * most):
            values_D, vectors_DD = torch.linalg.eigh(a_DD)
            return Metric._cut(values_D, vectors_DD, values_D.clamp_min(0).sum(), most)
        drawn_DB = torch.randn(width, most + SPARE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        basis_DB = drawn_DB.to(a_DD.device)
        for _ in range(ROUNDS):
            basis_DB = torch.linalg.qr(a_DD @ basis_DB).Q
        values_B, vectors_BB = torch.linalg.eigh(basis_DB.T @ a_DD @ basis_DB)
        return Metric._cut(values_B, basis_DB @ vectors_BB, a_DD.trace(), most)

    @staticmethod
    def weighted(parts: Sequence[tuple[float, "Metric"]], most: int) -> "Metric":
        """Σ w M over pairs of a weight w ≥ 0 and a matrix, in `most` eigenpairs: what `of` gives for the dense sum.

        Outside the span of all V the sum is isotropic, and nowhere smaller; so its eigenpairs are found in that span.
        """
        basis_DB = torch.linalg.qr(torch.cat([metric.columns_DK for _, metric in parts], 1).double()).Q
        inside_BB = sum(weight * metric.between(basis_DB.T) for weight, metric in parts)
        values_B, vectors_BB = torch.linalg.eigh(inside_BB)
        trace = torch.tensor(sum(weight * metric.trace for weight, metric in parts), dtype=torch.float64)
        return Metric._cut(values_B, basis_DB @ vectors_BB, trace, most)

    @staticmethod
    def _cut(values_N: Tensor, vectors_DN: Tensor, trace: Tensor, most: int) -> "Metric":
        """The last `most` of eigenpairs in ascending order, and what they lack of the trace as rest."""
        columns_DK = vectors_DN.flip(1)[:, :most].float().contiguous()
        values_K = values_N.flip(0)[:most].clamp_min(0).float()
        free = columns_DK.shape[0] - columns_DK.shape[1]
        rest = (trace - values_K.double().sum()).clamp_min(0) / free if free else torch.zeros(())
        return Metric(columns_DK, values_K, rest.float())

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
        eye_DD = torch.eye(len(v_DK), dtype=torch.float64)
        return (v_DK * (self.values_K.double() - rest)) @ v_DK.T + rest * eye_DD

    def between(self, rows_RD: Tensor) -> Tensor:
        """X M Xᵀ (R, R) in float64."""
        x_RD, rest = rows_RD.double(), self.rest.double()
        along_RK = x_RD @ self.columns_DK.double()
        return (along_RK * (self.values_K.double() - rest)) @ along_RK.T + rest * x_RD @ x_RD.T


@dataclass(frozen=True)
class Felt:
    """What one layer keeps of a task, or of several: C, of trace 1 per task, and G with all factors in it."""

    read: Metric
    loss: Metric

    def merged(self, other: "Felt", most: int) -> "Felt":
        """Both as one: C adds, and G is their mean, weighted by the traces of C."""
        a, b = self.read.trace, other.read.trace
        loss = Metric.weighted([(a / (a + b), self.loss), (b / (a + b), other.loss)], most)
        return Felt(Metric.weighted([(1.0, self.read), (1.0, other.read)], most), loss)

    def penalty(self, w1_RD: Tensor, written_DR: Tensor) -> float:
        """tr(U C Uᵀ G) in float64 for U = W2Γ · W1, written_DR · w1_RD."""
        return float((self.read.between(w1_RD) * self.loss.between(written_DR.T)).sum())


Kept = Mapping[str, Felt]  # of a task, by layer


def kept_of(reads: Mapping[str, Tensor], feels: Mapping[str, Tensor], most: int) -> dict[str, Felt]:
    """What is kept of a task: C / tr(C) and G · tr(C) / z of each layer, each in `most` eigenpairs.

    Args:
        reads, feels: layer → Σ h hᵀ and Σ g gᵀ, (D, D).

    Returns:
        Empty if the loss depends on no layer. Layers that it does not depend on have G = 0.
    """
    traces = {name: float(c_DD.double().trace()) for name, c_DD in reads.items()}
    terms = [traces[name] * float(g_DD.double().trace()) / len(g_DD) for name, g_DD in feels.items()]
    if not (z := sum(terms) / max(1, len(terms))):
        return {}
    return {
        name: Felt(Metric.of(reads[name].double() / trace, most), Metric.of(feels[name].double() * (trace / z), most))
        for name, trace in traces.items()
        if trace
    }


def kept_evenly(moments: Mapping[str, Tensor], most: int) -> dict[str, Felt]:
    """The same with G = I: a change counts alike in all directions and layers; from Σ h hᵀ (D, D) by layer."""
    return {
        name: Felt(Metric.of(c_DD.double() / trace, most), Metric.isotropic(len(c_DD), 1.0))
        for name, c_DD in moments.items()
        if (trace := float(c_DD.double().trace()))
    }


def joined(tasks: Sequence[Kept], added: Kept, apart: int, most: int) -> list[Kept]:
    """The tasks with one more. Beyond `apart` of them the two oldest become one, layer by layer."""
    found = [*tasks, added]
    while len(found) > apart and len(found) > 1:
        one, two, *rest = found
        both = {n: one[n].merged(two[n], most) if n in one and n in two else {**one, **two}[n] for n in {**one, **two}}
        found = [both, *rest]
    return found


def stacked(layers: Sequence[Sequence[Metric]]) -> tuple[Tensor, Tensor]:
    """The factors (M, D, S, K), zero-padded, and ρ (M, S) of the metrics of M layers and S tasks."""
    widest = max((metric.values_K.numel() for layer in layers for metric in layer), default=0)
    factors = [
        torch.stack([nn.functional.pad(metric.factor_DK, (0, widest - metric.values_K.numel())) for metric in layer], 1)
        for layer in layers
    ]
    return torch.stack(factors), torch.stack([torch.stack([metric.rest for metric in layer]) for layer in layers])


def between(rows_MRD: Tensor, factor_MDSK: Tensor, rest_MS: Tensor) -> Tensor:
    """X M_s Xᵀ (M, S, R, R) for each task s, in one batched product."""
    along_MRSK = (rows_MRD @ factor_MDSK.flatten(2)).unflatten(2, factor_MDSK.shape[2:])
    along_MSRK = along_MRSK.transpose(1, 2)
    return along_MSRK @ along_MSRK.mT + rest_MS[:, :, None, None] * (rows_MRD @ rows_MRD.mT)[:, None]


def penalty(w1_MRD: Tensor, written_MDR: Tensor, read: tuple[Tensor, Tensor], loss: tuple[Tensor, Tensor]) -> Tensor:
    """L_f = Σ over modules and tasks Σ_ij (W1 C W1ᵀ)_ij (Γ W2ᵀ G W2 Γ)_ij, in small batched products.

    Args:
        w1_MRD: (M, R, D) as the forward pass uses it.
        written_MDR: (M, D, R) W2 Γ.
        read, loss: C and G as `stacked` gives them.

    Returns:
        Scalar.
    """
    return (between(w1_MRD, *read) * between(written_MDR.mT, *loss)).sum()
