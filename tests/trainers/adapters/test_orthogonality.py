import numpy as np
import pytest
import torch

from trainers.adapters.orthogonality import BatchedBases, overlap, penalty, project_out
from trainers.adapters.subspace import extend_basis, leading_directions


def orthonormal(width: int, rank: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))[0].float()


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


def test_batched_penalty_equals_a_loop_over_uneven_modules() -> None:
    """Widths and history ranks differ; the batch pads, the result does not change."""
    generator = torch.Generator().manual_seed(3)
    widths, ranks = {"a": 16, "b": 16, "c": 24, "d": 16}, {"a": 2, "b": 5, "c": 3, "d": 0}
    bases = {name: orthonormal(widths[name], ranks[name], seed=i) for i, name in enumerate(widths)}
    w2 = {name: torch.randn(width, 4, generator=generator, requires_grad=True) for name, width in widths.items()}
    total = BatchedBases(bases).penalty(w2)
    expected = sum((bases[n].double().T @ w2[n].detach().double()).square().sum() for n in widths)
    assert total.item() == pytest.approx(float(expected), rel=1e-5)
    total.backward()
    for name in ("a", "b", "c"):
        q, w = bases[name].double(), w2[name].double()
        assert torch.allclose(w2[name].grad.double(), 2 * q @ (q.T @ w), atol=1e-5)


def test_without_history_the_penalty_is_zero() -> None:
    assert BatchedBases({"a": torch.zeros(8, 0)}).penalty({"a": torch.ones(8, 2)}).item() == 0


def test_project_out_is_exact() -> None:
    basis = orthonormal(40, 15)
    inside = project_out(torch.randn(40, 5, generator=torch.Generator().manual_seed(4)), basis)
    assert (basis.T @ inside).abs().max() < 1e-6


def test_extended_basis_is_orthonormal_and_spans_the_columns() -> None:
    basis = orthonormal(32, 6)
    columns = torch.randn(32, 5, generator=torch.Generator().manual_seed(5))
    added, sigma = extend_basis(basis, columns)
    both = torch.cat([basis, added], 1).double()
    assert torch.allclose(both.T @ both, torch.eye(11, dtype=torch.float64), atol=1e-6)
    assert (columns.double() - both @ (both.T @ columns.double())).abs().max() < 1e-5
    q = basis.double().numpy()
    residual = columns.double().numpy() - q @ (q.T @ columns.double().numpy())
    assert np.allclose(sigma.numpy(), np.linalg.svd(residual, compute_uv=False), rtol=1e-5)


def test_extend_basis_keeps_only_what_is_new() -> None:
    basis = orthonormal(16, 4)
    assert extend_basis(basis, basis @ torch.randn(4, 3))[0].shape == (16, 0)
    assert extend_basis(basis, torch.zeros(16, 3))[0].shape == (16, 0)
    assert extend_basis(basis, torch.zeros(16, 0))[0].shape == (16, 0)
    full = orthonormal(16, 14)
    assert extend_basis(full, torch.randn(16, 8))[0].shape == (16, 2)  # the space is full after two more


def test_leading_directions_cover_the_energy_and_no_more() -> None:
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(500, 24, generator=generator) * torch.linspace(5, 0.1, 24)
    moment = rows.T @ rows
    added, values = leading_directions(torch.zeros(24, 0), moment, 0.9)
    spectrum = np.linalg.eigvalsh(moment.double().numpy())[::-1]
    needed = int(np.searchsorted(np.cumsum(spectrum) / spectrum.sum(), 0.9)) + 1
    assert added.shape == (24, needed)
    assert np.allclose(values.numpy(), spectrum[:needed], rtol=1e-4)
    more, _ = leading_directions(added, moment, 0.99)
    basis = torch.cat([added, more], 1)
    covered = (basis * (moment @ basis)).sum() / moment.trace()
    assert covered >= 0.99 - 1e-6
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
    assert leading_directions(basis, moment, 0.95)[0].shape[1] == 0
