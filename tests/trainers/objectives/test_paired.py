"""Draws have the distribution of rows drawn one by one."""

import numpy as np
import pytest

from trainers.objectives.paired import counts, drawn_means


@pytest.mark.parametrize(
    "values", [np.array([1.0] * 70 + [0.0] * 30), np.linspace(0, 1, 100), np.array([1.0, 0, -1, 0])]
)
def test_draws_are_means_of_rows_drawn_with_replacement(values: np.ndarray) -> None:
    """Against indices drawn row by row: the same mean and spread, and quantiles of a normal size."""
    found = drawn_means(values, 3, -1, 20_000)
    plain = values[np.random.default_rng(1).integers(len(values), size=(20_000, len(values)))].mean(1)
    assert found.mean() == pytest.approx(values.mean(), abs=0.01) and found.std() == pytest.approx(
        plain.std(), rel=0.05
    )
    assert np.quantile(found, [0.05, 0.95]) == pytest.approx(np.quantile(plain, [0.05, 0.95]), abs=0.03)


def test_many_distinct_values_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 1, 50)
    whole = drawn_means(values, 0, 0, 300)
    monkeypatch.setattr("trainers.objectives.paired.AT_ONCE", 50 * 7)
    assert np.allclose(drawn_means(values, 0, 0, 300), whole, atol=1e-12)


@pytest.mark.parametrize(("value", "least"), [(1.0, 0.0), (0.0, 0.0), (1.0, -1.0), (-1.0, -1.0)])
def test_rows_that_are_alike_have_the_bound_of_clopper_and_pearson(value: float, least: float) -> None:
    """Of n right rows, the share of wrong ones is below 1 − 0.05^(1/n) with confidence 95%."""
    rows, span = 30, 1 - least
    differing = np.abs(drawn_means(np.full(rows, value), 0, least, 100_000) - value) / span
    assert np.quantile(differing, 0.95) == pytest.approx(1 - 0.05 ** (1 / rows), rel=0.02)


def test_rows_that_never_differ_may_differ_to_either_side() -> None:
    found = drawn_means(np.zeros(20), 0, -1, 10_000)
    assert (found < 0).mean() == pytest.approx(0.5, abs=0.02) and np.median(found) == pytest.approx(0, abs=0.01)


def test_counts_add_up_to_the_rows() -> None:
    drawn = counts(np.random.default_rng(0), np.array([0.25, 0.75]), 40, 9)
    assert drawn.shape == (2, 9) and (drawn.sum(0) == 40).all()
