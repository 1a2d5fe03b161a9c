"""C̄ as a few eigenpairs and a rest, and the functional penalty, against dense matrices in float64."""

import pytest
import torch
from torch import Tensor

from trainers.methods.oa.functional import Metric, dense_penalty, penalty

D, R = 24, 5


def moment(seed: int, rows: int = 60, width: int = D) -> Tensor:
    """A second moment with a spectrum that falls."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, width, generator=generator) * torch.logspace(1, -1, width)
    mix = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return (h @ mix).T @ (h @ mix)


@pytest.mark.parametrize("most", [1, 7, D - 1, D, D + 9])
def test_the_trace_is_kept_and_leading_directions_are_exact(most: int) -> None:
    c = moment(0).double()
    metric = Metric.of(c, most)
    dense, kept = metric.dense(), min(most, D)
    assert metric.trace == pytest.approx(float(c.trace()), rel=1e-6)
    assert float(dense.trace()) == pytest.approx(float(c.trace()), rel=1e-6)
    values, vectors = torch.linalg.eigh(c)
    leading = vectors.flip(1)[:, :kept]
    torch.testing.assert_close(dense @ leading, c @ leading, rtol=1e-4, atol=1e-4 * float(values[-1]))
    outside = vectors[:, : D - kept]
    rest = float(values[: D - kept].mean()) if most < D else 0.0
    torch.testing.assert_close(
        outside.T @ dense @ outside,
        rest * torch.eye(D - kept, dtype=torch.float64),
        rtol=1e-4,
        atol=1e-6 * float(values[-1]),
    )
    v = metric.columns_DK.double()
    torch.testing.assert_close(v.T @ v, torch.eye(kept, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_factor_and_the_rest_are_the_matrix() -> None:
    metric = Metric.of(moment(1), 6)
    found = metric.factor_DK.double() @ metric.factor_DK.double().T + metric.rest.double() * torch.eye(D).double()
    torch.testing.assert_close(found, metric.dense(), rtol=1e-5, atol=1e-4)


def test_every_task_counts_the_same_whatever_its_size() -> None:
    """C̄ is the sum of moments of trace 1: exact with all directions, with a few its trace is the number of tasks."""
    moments = [moment(0, rows=30), 100 * moment(1, rows=90), moment(2, rows=5)]
    exact = sum((c.double() / c.double().trace() for c in moments), torch.zeros(D, D, dtype=torch.float64))
    whole, few = Metric.zero(D), Metric.zero(D)
    for index, c in enumerate(moments, start=1):
        whole, few = whole.with_task(c, D), few.with_task(c, 4)
        assert few.trace == pytest.approx(index, rel=1e-6) and few.columns_DK.shape == (D, 4)
    torch.testing.assert_close(whole.dense(), exact, rtol=1e-5, atol=1e-7)
    assert few.with_task(torch.zeros(D, D), 4) is few


@pytest.mark.parametrize("most", [3, D])
def test_the_penalty_is_the_trace_of_u_c_ut(most: int) -> None:
    """Two modules, of which one has fewer eigenpairs, against U C̄ Uᵀ of each, written out in float64."""
    generator = torch.Generator().manual_seed(3)
    w1, up = torch.randn(2, R, D, generator=generator), torch.randn(2, D, R, generator=generator)
    metrics = [Metric.zero(D).with_task(moment(seed), most - seed) for seed in (0, 1)]
    expected = [
        float(torch.trace(u @ metric.dense() @ u.T))
        for u, metric in zip(up.double() @ w1.double(), metrics, strict=True)
    ]
    factor = torch.stack([torch.nn.functional.pad(m.factor_DK, (0, most - m.values_K.numel())) for m in metrics])
    found = penalty(w1, up, factor, torch.stack([metric.rest for metric in metrics]))
    assert min(expected) > 0.1 and float(found) == pytest.approx(sum(expected), rel=1e-5)
    for index, metric in enumerate(metrics):
        assert dense_penalty(w1[index], up[index], metric) == pytest.approx(expected[index], rel=1e-9)


def test_it_is_the_share_of_earlier_outputs_that_changes() -> None:
    """Σ ‖U h‖² / Σ ‖h‖² over the rows of one earlier task, if all its directions are kept."""
    generator = torch.Generator().manual_seed(4)
    h = torch.randn(40, D, generator=generator) * torch.linspace(3, 0.1, D)
    w1, up = torch.randn(R, D, generator=generator), torch.randn(D, R, generator=generator)
    changed = (h @ w1.T @ up.T).square().sum() / h.square().sum()
    metric = Metric.zero(D).with_task(h.T @ h, D)
    found = penalty(w1[None], up[None], metric.factor_DK[None], metric.rest[None])
    assert float(found) == pytest.approx(float(changed), rel=1e-4)
