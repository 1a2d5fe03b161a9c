"""Penalty, overlap and projection against dense float64."""

import numpy as np
import pytest
import torch

from tests.support.frames import orthonormal
from trainers.methods.oa.orthogonality import overlap, penalty, project_out


def test_penalty_and_overlap_are_zero_for_orthogonal_columns() -> None:
    q = orthonormal(32, 12)
    history, outside = q[:, :8], q[:, 8:]
    assert penalty(outside[None], history[None]).item() == pytest.approx(0, abs=1e-11)
    assert overlap(outside, torch.ones(4), history).item() == pytest.approx(0, abs=1e-11)


def test_penalty_and_overlap_equal_dense_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    w2, gamma = torch.randn(48, 6, generator=generator), torch.randn(6, generator=generator)
    basis = orthonormal(48, 10)
    q, w, d = (t.double().numpy() for t in (basis, w2, gamma))
    projector = q @ q.T
    assert penalty(w2[None], basis[None]).item() == pytest.approx(np.sum((projector @ w) ** 2), rel=1e-5)
    written = w @ np.diag(d)
    expected = np.sum((projector @ written) ** 2) / np.sum(written**2)
    assert overlap(w2, gamma, basis).item() == pytest.approx(expected, rel=1e-5)


def test_overlap_is_scale_free_and_bounded() -> None:
    basis, w2 = orthonormal(16, 4), torch.randn(16, 3, generator=torch.Generator().manual_seed(2))
    gamma = torch.tensor([1.0, 0.0, -2.0])
    assert overlap(1e-3 * w2, gamma, basis).item() == pytest.approx(overlap(w2, gamma, basis).item(), rel=1e-5)
    assert overlap(basis, torch.ones(4), basis).item() == pytest.approx(1)
    assert overlap(w2, torch.zeros(3), basis).item() == 0


def test_project_out_is_exact() -> None:
    """Qᵀ(I − QQᵀ)V to 16 units of float32 (2^-20) of ‖v‖: an element is off by its own rounding, that of a sum over 15
    directions and the basis' own 1e-7, in whichever order a CPU adds. The product here is float64."""
    basis, v = orthonormal(40, 15), torch.randn(40, 5, generator=torch.Generator().manual_seed(4))
    left = basis.double().T @ project_out(v, basis).double()
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=2**-20 * float(v.norm(dim=0).min()))
