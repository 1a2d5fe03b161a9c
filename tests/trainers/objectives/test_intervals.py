"""Intervals of scores: the bootstrap as it is defined, drawn here row by row."""

import math
import random

import numpy as np
import pytest

from trainers.messages import Score
from trainers.objectives import intervals
from trainers.objectives.intervals import resampled, with_interval


def mean_of(rows: int):  # type: ignore[no-untyped-def]
    return lambda totals: Score(float(totals[0]), rows, {"rouge_l": float(totals[0]) / rows})


def nll_of(totals: np.ndarray) -> Score:
    return Score(None, 30, {"perplexity": math.exp(totals[1] / totals[2])})


def by_hand(rows: list[list[float]], value) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Quantiles of 4,000 resamples by Python's own generator."""
    rng = random.Random(1)
    drawn = sorted(value(rng.choices(rows, k=len(rows))) for _ in range(4_000))
    return drawn[100], drawn[3900]


@pytest.fixture
def rows() -> np.ndarray:
    """(30, 3): a score, −Σ log p and trained tokens per row, unequally many."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(1, 40, 30)
    return np.stack([rng.beta(0.5, 0.5, 30), tokens * rng.gamma(2, 1, 30), tokens], 1)


def test_the_mean_of_a_metric(rows: np.ndarray) -> None:
    score = with_interval(rows, mean_of(30))
    expected = by_hand(rows.tolist(), lambda drawn: sum(row[0] for row in drawn) / 30)
    assert score.interval == pytest.approx(expected, abs=0.02) and score.correct == pytest.approx(rows[:, 0].sum())
    low, high = score.interval or (1, 0)
    assert low < score.value < high


def test_a_ratio_is_taken_after_its_sums(rows: np.ndarray) -> None:
    """A task judged by its loss: bounds of the nll per token, also if perplexity is what is asked for."""
    score = with_interval(rows, nll_of)
    expected = by_hand(rows.tolist(), lambda drawn: sum(row[1] for row in drawn) / sum(row[2] for row in drawn))
    assert score.interval == pytest.approx(expected, abs=0.1)
    assert score.value == pytest.approx(rows[:, 1].sum() / rows[:, 2].sum())


def test_the_same_each_time_and_however_many_are_drawn_at_once(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = with_interval(rows, mean_of(30))
    assert with_interval(rows.copy(), mean_of(30)) == first
    monkeypatch.setattr(intervals, "AT_ONCE", 7 * rows.size)
    assert with_interval(rows, mean_of(30)) == first and len([*resampled(rows)]) == intervals.RESAMPLES


def test_equal_rows_and_counts() -> None:
    equal = with_interval(np.full((5, 1), 0.25), mean_of(5))
    assert equal.interval == (0.25, 0.25)
    low, high = with_interval(np.zeros((20, 1)), mean_of(20)).interval or (1, 0)
    assert low == 0 and (1 - high) ** 20 == pytest.approx(0.025)
    low, high = with_interval(np.ones((20, 1)), mean_of(20)).interval or (1, 0)
    assert high == 1 and low**20 == pytest.approx(0.025)
    assert with_interval(np.ones((4, 1)), lambda totals: Score(int(totals[0]), 4)) == Score(4, 4)


def test_how_often_it_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of 80 rows whose mean is 1/3, drawn 300 times; 95% ± 4%."""
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        low, high = with_interval(rng.beta(1, 2, (80, 1)), mean_of(80)).interval or (1, 0)
        held += low <= 1 / 3 <= high
    assert 273 <= held <= 297
