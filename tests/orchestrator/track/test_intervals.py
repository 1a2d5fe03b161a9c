"""Intervals against exact sums, figures by hand, and how often they hold the truth."""

import math
from fractions import Fraction

import numpy as np
import pytest

from orchestrator.track.intervals import half, half_widths, of_mean, of_share


def quantile(rows: int, correct: int, level: Fraction) -> float:
    """The smallest count that so much of Binomial(rows, correct / rows) does not exceed, exactly, over rows."""
    share, below = Fraction(correct, rows), Fraction(0)
    for count in range(rows + 1):
        below += math.comb(rows, count) * share**count * (1 - share) ** (rows - count)
        if below >= level:
            return count / rows
    raise AssertionError


@pytest.mark.parametrize("rows", [1, 2, 7, 20, 61])
def test_a_share_has_the_exact_quantiles_of_its_bootstrap(rows: int) -> None:
    for correct in range(1, rows):
        levels = Fraction(25, 1000), Fraction(975, 1000)
        assert of_share(correct, rows) == tuple(quantile(rows, correct, level) for level in levels)


@pytest.mark.parametrize("rows", [1, 20, 300])
def test_all_right_or_none_has_the_bound_at_which_that_comes_once_in_forty_times(rows: int) -> None:
    (low, right), (none, high) = of_share(rows, rows), of_share(0, rows)
    assert (right, none) == (1, 0) and low**rows == pytest.approx(0.025) and high == pytest.approx(1 - low)


def test_a_large_split() -> None:
    low, high = of_share(570_000, 1_000_000)
    spread = 1.959964 * math.sqrt(0.57 * 0.43 / 1e6)
    assert (low, high) == pytest.approx((0.57 - spread, 0.57 + spread), abs=2e-6)


def test_half() -> None:
    assert half((0.25, 0.75)) == 0.25 and half(None) is None


def test_half_widths_by_hand() -> None:
    matrix = [[0.5, 0.1, 0.2], [0.9, 0.6, 0.3], [0.7, 0.6, 0.8]]
    halves = [[0.03, 0.05, 0.06], [0.04, 0.12, 0.05], [0.03, 0.04, 0.12]]
    assert half_widths(matrix, halves, [0.06, 0.12, 0.12], [100, 200, 200]) == pytest.approx(
        {
            "aa": 0.13 / 3,  # √(0.03² + 0.04² + 0.12²) / 3
            "aa_micro": math.sqrt(3**2 + 8**2 + 24**2) / 500,
            "bwt": math.sqrt(0.03**2 + 0.03**2 + 0.04**2 + 0.12**2) / 2,
            "forgetting": math.sqrt(0.03**2 + 0.04**2 + 0.04**2 + 0.12**2) / 2,  # task 0 was best after task 1
            "fwt": math.sqrt(0.05**2 + 0.12**2 + 0.05**2 + 0.12**2) / 2,
            "learning_accuracy": math.sqrt(0.03**2 + 0.12**2 + 0.12**2) / 3,
        }
    )


def test_without_scores_or_with_one_that_has_no_interval_there_is_none() -> None:
    assert {*half_widths([], [], [], []).values()} == {None}
    found = half_widths([[0.5, 0.5], [0.4, 0.6]], [[None, 0.1], [0.1, 0.1]], [0.1, 0.1], [0, 0])
    assert found["aa"] == pytest.approx(math.hypot(0.1, 0.1) / 2) and found["fwt"] == pytest.approx(
        math.hypot(0.1, 0.1)
    )
    assert found["bwt"] is found["learning_accuracy"] is found["aa_micro"] is None
    assert of_mean([]) is None


def test_scores_that_were_left_out_do_not_count() -> None:
    matrix = [[0.5, None], [None, 0.6]]
    found = half_widths(matrix, [[0.1, None], [None, 0.3]], [None, None], [10, 10])
    assert found["aa"] == 0.3 and found["learning_accuracy"] == pytest.approx(math.hypot(0.1, 0.3) / 2)
    assert found["bwt"] is found["forgetting"] is found["fwt"] is None


def test_how_often_the_interval_of_an_average_holds_the_truth() -> None:
    """Three tasks of 100 rows whose true scores are known, drawn 1,000 times; 95% ± 2.5%."""
    rng, true, rows, held = np.random.default_rng(0), (0.3, 0.6, 0.85), 100, 0
    for _ in range(1_000):
        counts = [int(rng.binomial(rows, share)) for share in true]
        spread = of_mean([[half(of_share(count, rows))] for count in counts])
        assert spread is not None
        held += abs(sum(counts) / rows / 3 - sum(true) / 3) <= spread
    assert 925 <= held <= 975
