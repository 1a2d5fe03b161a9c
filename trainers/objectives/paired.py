"""Bootstrap draws of a mean over rows, which several scores of the same rows can share.

A draw takes N of the N rows with replacement (Efron, 1979). Rows of equal values are drawn together: a draw is
multinomial over the distinct values, which has the same distribution and costs next to nothing for right and wrong.

Shape suffixes: N rows, U distinct values, B draws.
"""

import numpy as np

DRAWS = 2_000
AT_ONCE = 1 << 21  # counts drawn at once, 16 MiB


def counts(rng: np.random.Generator, shares_U: np.ndarray, rows: int, draws: int) -> np.ndarray:
    """(U, draws): how often each value is in each draw of `rows`, if its share of the rows is `shares_U`."""
    drawn: np.ndarray = rng.multinomial(rows, shares_U, size=draws).T
    return drawn


def drawn_means(values_N: np.ndarray, seed: int, least: float, draws: int = DRAWS) -> np.ndarray:
    """(draws,) means over rows drawn anew. Values are from `least` to 1.

    If all rows are alike, so is every draw, although other rows may differ. A share s of all rows that differ is then
    drawn with P(s ≤ x) = 1 − (1 − x)^N, whose quantiles are the bounds of Clopper and Pearson (1934); those rows have
    the other end of the range, at either side if there are two.
    """
    rng, rows = np.random.default_rng(seed), len(values_N)
    values_U, counted_U = np.unique(values_N, return_counts=True)
    if len(values_U) == 1:
        return alike(rng, float(values_U[0]), rows, least, draws)
    at_once = max(1, AT_ONCE // len(values_U))
    parts = [min(at_once, draws - first) for first in range(0, draws, at_once)]
    return np.concatenate([values_U @ counts(rng, counted_U / rows, rows, size) / rows for size in parts])


def alike(rng: np.random.Generator, value: float, rows: int, least: float, draws: int) -> np.ndarray:
    """`drawn_means` of rows that all have one value."""
    differing_B = 1 - rng.random(draws) ** (1 / rows)
    to_1_B = rng.random(draws) < 0.5 if least < value < 1 else np.full(draws, value <= least)
    return value + differing_B * (np.where(to_1_B, 1.0, least) - value)
