"""Bases of subspaces and angles between them, against dense float64 and angles by construction."""

import numpy as np
import pytest
import torch

from tests.support.frames import orthonormal
from trainers.methods.oa.subspace import Basis, extend_basis, leading_directions, principal_angles


def test_extended_basis_is_orthonormal_and_spans_the_columns() -> None:
    basis = orthonormal(32, 6)
    columns = torch.randn(32, 5, generator=torch.Generator().manual_seed(5))
    new = extend_basis(basis, columns)
    added, sigma = new.columns_DH, new.spectrum_H
    both = torch.cat([basis, added], 1).double()
    assert torch.allclose(both.T @ both, torch.eye(11, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(both @ (both.T @ columns.double()), columns.double(), rtol=0, atol=1e-5)
    q = basis.double().numpy()
    residual = columns.double().numpy() - q @ (q.T @ columns.double().numpy())
    assert np.allclose(sigma.numpy(), np.linalg.svd(residual, compute_uv=False), rtol=1e-5)


def test_extend_basis_keeps_only_what_is_new() -> None:
    basis = orthonormal(16, 4)
    assert extend_basis(basis, basis @ torch.randn(4, 3)).columns_DH.shape == (16, 0)
    assert extend_basis(basis, torch.zeros(16, 3)).columns_DH.shape == (16, 0)
    assert extend_basis(basis, torch.zeros(16, 0)).columns_DH.shape == (16, 0)
    full = orthonormal(16, 14)
    assert extend_basis(full, torch.randn(16, 8)).columns_DH.shape == (16, 2)  # the space is full after two more


def test_leading_directions_cover_the_energy_and_no_more() -> None:
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(500, 24, generator=generator) * torch.linspace(5, 0.1, 24)
    moment = rows.T @ rows
    new = leading_directions(torch.zeros(24, 0), moment, 0.9)
    added, values = new.columns_DH, new.spectrum_H
    spectrum = np.linalg.eigvalsh(moment.double().numpy())[::-1]
    needed = int(np.searchsorted(np.cumsum(spectrum) / spectrum.sum(), 0.9)) + 1
    assert added.shape == (24, needed)
    assert np.allclose(values.numpy(), spectrum[:needed], rtol=1e-4)
    more = leading_directions(added, moment, 0.99).columns_DH
    basis = torch.cat([added, more], 1)
    covered = (basis * (moment @ basis)).sum() / moment.trace()
    assert covered >= 0.99 - 1e-6
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
    assert leading_directions(basis, moment, 0.95).columns_DH.shape[1] == 0


@pytest.mark.parametrize(
    "energies", [(0.9999,), (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)], ids=["once", "growing"]
)
@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("rank", [3, 40])
def test_leading_directions_stay_orthonormal_if_hardly_any_energy_is_left(
    rank: int, noise: float, energies: tuple[float, ...]
) -> None:
    """Three tasks that read nearly the same few directions: P is orthonormal, and covers the share that was asked."""
    generator = torch.Generator().manual_seed(rank)
    mix = torch.randn(rank, 48, generator=generator) * torch.logspace(0, -3, 48)
    basis = torch.zeros(48, 0)
    for _ in range(3):
        rows = torch.randn(400, rank, generator=generator) @ mix + noise * torch.randn(400, 48, generator=generator)
        moment = rows.T @ rows
        for energy in energies:
            basis = torch.cat([basis, leading_directions(basis, moment, energy).columns_DH], 1)
            p, c = basis.double().numpy(), moment.double().numpy()
            np.testing.assert_allclose(p.T @ p, np.eye(p.shape[1]), rtol=0, atol=1e-6)
            assert np.trace(p.T @ c @ p) >= (energy - 1e-6) * np.trace(c)


def test_principal_angles_are_those_that_were_built_in() -> None:
    """Two planes turned by known angles in a random frame, against arccos and arcsin by construction."""
    frame = orthonormal(20, 6).double()
    for degrees in ([0.0, 90.0], [1e-5, 30.0], [44.0, 46.0], [90.0, 90.0]):
        theta = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        a, b = frame[:, :2], frame[:, :2] * theta.cos() + frame[:, 2:4] * theta.sin()
        mixed = b @ torch.tensor([[1.0, 0.5], [-2.0, 3.0]], dtype=torch.float64)  # any basis of the same plane
        found = principal_angles(a, mixed)
        assert torch.allclose(found, torch.tensor(degrees, dtype=torch.float64), atol=1e-5), degrees
    narrow = principal_angles(frame[:, :1], frame[:, :3])
    assert narrow.shape == (1,) and float(narrow[0]) == pytest.approx(0, abs=1e-5)
    stack = torch.stack([orthonormal(20, 3, seed).double() for seed in (1, 2)])
    for own in (frame[:, :2], frame[:, :4]):
        each = torch.stack([principal_angles(own, one) for one in stack])
        assert torch.allclose(principal_angles(own, stack), each, atol=1e-9)


def test_a_limited_basis_keeps_the_largest_singular_values_in_their_order() -> None:
    basis = Basis(orthonormal(12, 4), torch.tensor([1.0, 5.0, 0.5, 3.0]))
    kept = basis.limited(2)
    assert kept.spectrum_H.tolist() == [5.0, 3.0]
    assert torch.equal(kept.columns_DH, basis.columns_DH[:, [1, 3]])
    assert basis.limited(4) is basis and basis.limited(9) is basis
    assert basis.occupancy == pytest.approx(1 / 3)
    assert Basis.empty(12).joined(kept).columns_DH.shape == (12, 2)
