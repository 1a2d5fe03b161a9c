from itertools import product

import numpy as np
import pytest

from benchmarks.methods.bootstrap import paired
from benchmarks.methods.rows import packed, unpacked


def values(*rows: float) -> np.ndarray:
    return np.array(rows, dtype=float)


def test_the_interval_is_that_of_all_draws_of_rows() -> None:
    """Two tasks of two and three rows: 4 · 27 equally likely draws, listed by hand."""
    first, second = {"a": values(1, 1), "b": values(1, 0, 1)}, {"a": values(0, 1), "b": values(1, 1, 0)}
    means = [
        (np.mean(draw_a) + np.mean(draw_b)) / 2
        for draw_a, draw_b in product(product((1, 0), repeat=2), product((0, -1, 1), repeat=3))
    ]
    found = paired([(0, first, second)], draws=40_000)
    assert found is not None
    assert found.value == pytest.approx((0.5 + 0) / 2) and (found.cells, found.seeds) == (1, 1)
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert not found.clear


def test_rows_that_both_have_alike_add_no_width() -> None:
    """Paired: what both answer alike cancels in every draw. Unpaired it would be wide."""
    rows = np.arange(50) % 2
    found = paired([(0, {"a": rows.astype(float)}, {"a": rows.astype(float)})])
    assert found is not None and (found.value, found.low, found.high) == (0, 0, 0)


def test_seeds_are_drawn_as_whole() -> None:
    """Two seeds with differences 1 and 0, all rows alike: a draw has mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    right, wrong = {"a": np.ones(4)}, {"a": np.zeros(4)}
    found = paired([(0, right, wrong), (1, wrong, wrong)])
    assert found is not None and (found.value, found.low, found.high) == (0.5, 0, 1) and found.seeds == 2
    both = paired([(0, right, wrong), (1, right, wrong)])
    assert both is not None and (both.low, both.high) == (1, 1) and both.clear
    orders = paired([(0, right, wrong), (0, wrong, wrong)])  # of one seed: nothing is drawn
    assert orders is not None and (orders.low, orders.high) == (0.5, 0.5) and orders.seeds == 1


def test_without_pairs_there_is_no_interval() -> None:
    assert paired([]) is None


@pytest.mark.parametrize("rows", [values(1, 0, 0, 1, 1, 0, 1, 1, 1), values(0, 1), values(0, 51 / 255, 1)])
def test_values_of_rows_come_back_from_a_line(rows: np.ndarray) -> None:
    assert unpacked(packed(rows), len(rows)).tolist() == pytest.approx(rows.tolist())
    assert len(packed(np.ones(1000))) <= 1 + 4 * -(-125 // 3)
