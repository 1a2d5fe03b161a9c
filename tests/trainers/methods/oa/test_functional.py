"""Matrices as a few eigenpairs and a rest, and the functional penalty, against dense ones in float64."""

import pytest
import torch
from torch import Tensor

from trainers.methods.oa.functional import Felt, Metric, joined, kept_evenly, kept_of, penalty, stacked

D, R = 24, 5
DRAW = torch.Generator().manual_seed(3)
W1, UP = torch.randn(2, R, D, generator=DRAW), torch.randn(2, D, R, generator=DRAW)


def moment(seed: int, rows: int = 60, width: int = D) -> Tensor:
    """A second moment with a spectrum that falls."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, width, generator=generator) * torch.logspace(1, -1, width)
    mix = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return (h @ mix).T @ (h @ mix)


def moments(task: int, *layers: str, scale: float = 1.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """C and G of layers."""
    reads = {name: moment(10 * task + i) for i, name in enumerate(layers)}
    return reads, {name: scale * moment(100 * task + i + 50) * 4**i for i, name in enumerate(layers)}


def trace(u: Tensor, c: Tensor, g: Tensor) -> float:
    """tr(U C Uᵀ G) in float64, written out."""
    return float(torch.trace(u.double() @ c.double() @ u.double().T @ g.double()))


@pytest.mark.parametrize("most", [1, 7, D - 1, D, D + 9])
def test_the_trace_is_kept_and_leading_directions_are_exact(most: int) -> None:
    c = moment(0).double()
    metric = Metric.of(c, most)
    dense, kept = metric.dense(), min(most, D)
    assert metric.trace == pytest.approx(float(c.trace()), rel=1e-6)
    assert float(dense.trace()) == pytest.approx(float(c.trace()), rel=1e-6)
    values, vectors = torch.linalg.eigh(c)
    leading, outside = vectors.flip(1)[:, :kept], vectors[:, : D - kept]
    bound = 1e-6 * float(values[-1])
    torch.testing.assert_close(dense @ leading, c @ leading, rtol=1e-4, atol=100 * bound)
    rest = float(values[: D - kept].mean()) if most < D else 0.0
    isotropic = rest * torch.eye(D - kept, dtype=torch.float64)
    torch.testing.assert_close(outside.T @ dense @ outside, isotropic, rtol=1e-4, atol=bound)
    v = metric.columns_DK.double()
    torch.testing.assert_close(v.T @ v, torch.eye(kept, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_factor_and_the_rest_are_the_matrix() -> None:
    metric = Metric.of(moment(1), 6)
    found = metric.factor_DK.double() @ metric.factor_DK.double().T + metric.rest.double() * torch.eye(D).double()
    torch.testing.assert_close(found, metric.dense(), rtol=1e-5, atol=1e-4)
    rows = W1[0].double()
    torch.testing.assert_close(metric.between(W1[0]), rows @ metric.dense() @ rows.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("most", [3, 9, D])
def test_a_weighted_sum_is_that_of_the_dense_matrices(most: int) -> None:
    """Cut as the dense sum is cut, though only the span of the parts is decomposed."""
    parts = [(0.3, Metric.of(moment(0), 5)), (2.0, Metric.of(moment(1), 4)), (1.0, Metric.isotropic(D, 7.0))]
    exact = sum((w * m.dense() for w, m in parts), torch.zeros(D, D, dtype=torch.float64))
    found, expected = Metric.weighted(parts, most), Metric.of(exact, most)
    assert found.trace == pytest.approx(float(exact.trace()), rel=1e-6)
    torch.testing.assert_close(found.dense(), expected.dense(), rtol=1e-4, atol=1e-3)


def test_the_penalty_is_the_formula() -> None:
    """Two layers and two tasks with all eigenpairs: Σ_s Σ_m tr(U C_s Uᵀ G_s) / z_s in float64, from the moments."""
    tasks = [moments(1, "a", "b"), moments(2, "a", "b", scale=50.0)]
    u = dict(zip("ab", UP.double() @ W1.double(), strict=True))
    expected = 0.0
    for reads, feels in tasks:
        z = sum(float(reads[n].double().trace() * feels[n].double().trace()) / D for n in "ab") / 2
        expected += sum(trace(u[n], reads[n], feels[n]) / z for n in "ab")
    kept = [kept_of(reads, feels, D) for reads, feels in tasks]
    layers = [[task[name] for task in kept] for name in "ab"]
    read, loss = (stacked([[getattr(each, side) for each in layer] for layer in layers]) for side in ("read", "loss"))
    assert float(penalty(W1, UP, read, loss)) == pytest.approx(expected, rel=1e-4)
    alone = sum(each.penalty(W1[i], UP[i]) for i, layer in enumerate(layers) for each in layer)
    assert alone == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("widths", [{"a": D, "b": D}, {"a": D, "b": 2 * D}])
def test_tasks_count_alike_whatever_the_size_of_their_gradients(widths: dict[str, int]) -> None:
    """If no direction matters more than others, a layer's term is tr(U C Uᵀ) / tr(C) on average."""
    reads = {name: moment(i, width=width) for i, (name, width) in enumerate(widths.items())}
    feels = {name: (i + 1) * 1e-7 * torch.eye(width) for i, (name, width) in enumerate(widths.items())}
    kept = kept_of(reads, feels, 9)
    ratios = []
    for name, each in kept.items():
        u = torch.randn(widths[name], widths[name], generator=torch.Generator().manual_seed(1))
        eye = torch.eye(widths[name])
        ratios.append(trace(u, each.read.dense(), each.loss.dense()) / trace(u, each.read.dense(), eye))
        assert each.read.trace == pytest.approx(1, rel=1e-5)
    assert sum(ratios) / 2 == pytest.approx(1, rel=1e-4) and ratios[0] != pytest.approx(ratios[1], rel=0.1)


def test_what_few_eigenpairs_keep_is_padded_and_near() -> None:
    """Layers and tasks with other numbers of eigenpairs, and one of which nothing is kept, in one call."""
    some = [kept_of(*moments(1, "a", "b"), 3), kept_evenly(moments(2, "a")[0], 7)]
    nothing = Felt(Metric.isotropic(D, 0.0), Metric.isotropic(D, 0.0))
    layers = [[task.get(name, nothing) for task in some] for name in "ab"]
    read, loss = (stacked([[getattr(each, side) for each in layer] for layer in layers]) for side in ("read", "loss"))
    expected = 0.0
    for i, layer in enumerate(layers):
        u = UP[i].double() @ W1[i].double()
        expected += sum(trace(u, each.read.dense(), each.loss.dense()) for each in layer)
    assert float(penalty(W1, UP, read, loss)) == pytest.approx(expected, rel=1e-4)


def test_evenly_it_is_the_share_of_earlier_outputs_that_changes() -> None:
    """Σ ‖U h‖² / Σ ‖h‖² over the rows of a task."""
    h = torch.randn(40, D, generator=DRAW) * torch.linspace(3, 0.1, D)
    changed = (h @ W1[0].T @ UP[0].T).square().sum() / h.square().sum()
    kept = kept_evenly({"a": h.T @ h}, D)["a"]
    found = penalty(W1[:1], UP[:1], stacked([[kept.read]]), stacked([[kept.loss]]))
    assert float(found) == pytest.approx(float(changed), rel=1e-4)


def test_beyond_a_number_the_oldest_tasks_become_one() -> None:
    """C adds and G is averaged by its traces, so that an isotropic C keeps Σ tr(U C Uᵀ G)."""
    tasks = [kept_of(*moments(t, "a", "b"), 4) for t in range(4)]
    found = []
    for task in tasks:
        found = joined(found, task, apart=2, most=D)
    assert len(found) == 2 and found[1] is tasks[-1]
    for name in "ab":
        merged = found[0][name]
        assert merged.read.trace == pytest.approx(3, rel=1e-5)
        exact = sum((task[name].read.dense() for task in tasks[:3]), torch.zeros(D, D, dtype=torch.float64))
        torch.testing.assert_close(merged.read.dense(), exact, rtol=1e-4, atol=1e-5)
        felt = sum((task[name].loss.dense() / 3 for task in tasks[:3]), torch.zeros(D, D, dtype=torch.float64))
        torch.testing.assert_close(merged.loss.dense(), felt, rtol=1e-4, atol=1e-5 * float(felt.max()))
    assert joined([], tasks[0], apart=1, most=4) == [tasks[0]]
    assert {*joined([{"a": tasks[0]["a"]}], tasks[1], apart=1, most=4)[0]} == {"a", "b"}


def test_a_task_whose_loss_depends_on_no_layer_keeps_nothing() -> None:
    reads, feels = moments(1, "a", "b")
    assert kept_of(reads, {name: 0 * g for name, g in feels.items()}, 4) == {}
    one = kept_of(reads, {**feels, "b": 0 * feels["b"]}, 4)
    assert one["b"].loss.trace == 0 and one["a"].loss.trace > 0


def test_wide_layers_keep_what_leads_without_all_pairs() -> None:
    """Of a spectrum that falls, within 1% of what the best pairs cover; the trace is exact."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(700, 700, generator=generator, dtype=torch.float64)).Q
    values = torch.arange(1, 701, dtype=torch.float64) ** -1.0
    matrix = (vectors * values) @ vectors.T
    found = Metric.of(matrix, 24)
    v = found.columns_DK.double()
    assert float(torch.trace(v.T @ matrix @ v)) > 0.99 * float(values[:24].sum())
    assert torch.allclose(v.T @ v, torch.eye(24, dtype=torch.float64), atol=1e-5)
    assert found.trace == pytest.approx(float(values.sum()), rel=1e-6)
