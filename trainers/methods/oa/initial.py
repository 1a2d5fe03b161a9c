"""Where W1 starts with `initial: task`: on the leading directions of what its layer gives on the task's own rows.

Shape suffixes: D output width, H rank of the history, N directions. After InfLoRA (Liang and Li, arXiv:2404.00228),
which takes a layer's inputs and freezes the directions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.methods.base import Reader, of_rank_0

NOTHING = 1e-9  # a direction with less of a moment's trace is rounding


def leading_rows(
    reader: Reader, modules: Mapping[str, nn.Module], read: Mapping[str, Tensor], most: Mapping[str, int], rank: int
) -> dict[str, Tensor]:
    """The leading directions outside of P of each layer, as rank 0 finds them. Collective.

    Args:
        reader: of the task's rows.
        modules: the layers, without an adapter of the task.
        read: module → P (D, H).
        most: module → directions at most.
        rank: this process's.
    """
    moments = reader.second_moments(modules)
    return of_rank_0(reader, rank, lambda: {n: directions(moments[n].cpu(), read[n], most[n]) for n in modules})


def directions(moment_DD: Tensor, basis_DH: Tensor, most: int) -> Tensor:
    """The eigenvectors of (I − PPᵀ) C (I − PPᵀ) of largest eigenvalue, as rows of length 1.

    Args:
        moment_DD: C, of any scale.
        basis_DH: P, orthonormal columns, H ≥ 0.
        most: how many at most.

    Returns:
        (N, D) float32, decomposed in float64. N is less than `most` if C has fewer directions outside of P, and 0 if
        C is not finite.
    """
    c_DD, p_DH = moment_DD.double(), basis_DH.double()
    if not c_DD.isfinite().all():
        return torch.zeros(0, len(c_DD))
    keep_DD = torch.eye(len(c_DD), dtype=torch.float64) - p_DH @ p_DH.T
    values_D, vectors_DD = torch.linalg.eigh(keep_DD @ c_DD @ keep_DD)
    found = min(most, int((values_D > NOTHING * c_DD.trace()).sum()))
    return vectors_DD.flip(1)[:, :found].T.float().contiguous()
