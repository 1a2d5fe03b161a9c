"""Tests of drift against scipy's, and what they say of chance."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.followed.drift import DRAWN, change, fisher, flipped, permuted, sign_test


@pytest.mark.parametrize(("gained", "moved"), [(0, 0), (0, 1), (3, 3), (2, 9), (40, 60), (900, 2000)])
def test_sign_test_is_the_exact_binomial_one(gained: int, moved: int) -> None:
    wanted = stats.binomtest(gained, moved).pvalue if moved else 1.0
    assert sign_test(gained, moved) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("right", "rows", "right_after", "rows_after"),
    [(3, 4, 1, 4), (0, 5, 0, 7), (5, 5, 6, 6), (90, 100, 60, 90), (480, 500, 1900, 2000), (7, 10, 7, 10)],
)
def test_fisher_is_scipys(right: int, rows: int, right_after: int, rows_after: int) -> None:
    wanted = stats.fisher_exact([[right, rows - right], [right_after, rows_after - right_after]]).pvalue
    assert fisher(right, rows, right_after, rows_after) == pytest.approx(wanted, rel=1e-6)


def test_sign_flips_and_permutations_agree_with_scipys() -> None:
    rng = np.random.default_rng(1)
    d = rng.normal(0.1, 0.3, 12)
    exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert flipped(d) == pytest.approx(exact, abs=0.02)
    a, b = rng.uniform(0, 1, 9), rng.uniform(0.2, 1, 8)
    difference = lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis)  # noqa: E731
    exact = stats.permutation_test(
        (a, b), difference, permutation_type="independent", n_resamples=np.inf, vectorized=True
    ).pvalue
    assert permuted(a, b) == pytest.approx(exact, abs=0.02)


def test_many_rows_take_the_normal_distribution_which_agrees_with_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    a = rng.uniform(0, 1, 300)
    b = np.clip(a + rng.normal(0.02, 0.2, 300), 0, 1)
    drawn = flipped(b - a), permuted(a[:200], b[:190] + 0.03)
    monkeypatch.setattr("orchestrator.followed.drift.DRAWN", 10)
    assert (flipped(b - a), permuted(a[:200], b[:190] + 0.03)) == pytest.approx(drawn, abs=0.02)
    assert DRAWN < 600


def test_chance_alone_is_flagged_as_often_as_the_level_says() -> None:
    """Without drift, of scores that are not bits: within three standard errors of 5%, or below for what is discrete."""
    rng = np.random.default_rng(3)
    for paired in (True, False):
        found = []
        for _ in range(200):
            a, b = rng.uniform(0, 1, (2, 450))
            found.append(change(a, b, paired=paired).verdict(0.05) != "within noise")
        assert sum(found) <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_the_same_rows_are_told_apart_where_other_rows_are_not() -> None:
    """Ten of 200 rows fall: as pairs that is no chance, as two samples it may be."""
    before = np.ones(200)
    before[:40] = 0
    after = before.copy()
    after[50:60] = 0
    same, other = change(before, after, paired=True), change(before, after, paired=False)
    assert same.changed == 10 and same.p == pytest.approx(2**-9) and same.verdict(0.01) == "worse"
    assert other.changed is None and not other.paired and other.verdict(0.01) == "within noise"
    assert same.difference == other.difference == pytest.approx(-0.05)


def test_nothing_changed_is_no_drift() -> None:
    values = np.array([0.5, 0.25, 1.0])
    for paired in (True, False):
        made = change(values, values, paired=paired)
        assert made.p == 1.0 and made.verdict(0.99) == "within noise"
