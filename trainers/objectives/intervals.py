"""The 95% interval of a split's score: the percentile bootstrap over its rows (Efron, 1979).

N rows are drawn from the N rows, with replacement, RESAMPLES times; the bounds are the 2.5% and 97.5% quantiles of the
scores of what was drawn. A ratio, as nll per token is, is taken after its sums are. The draws depend on N alone, so
that a split's interval is the same on any number of workers. It says how much other rows would change the score, and
nothing of another seed of training. Scores of classification are counts, whose bootstrap is binomial: it follows from
what is stored, see `orchestrator.track.intervals`.

If all rows score 0, or all 1, so does every resample. The bound on the other side is then that of Clopper and Pearson
(1934): such rows come once in 40 times if a share 1 − 0.025^(1/N) of all rows is different.

Shape suffixes as in `base`; R resamples.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from trainers.messages import Score

if TYPE_CHECKING:
    import numpy as np

Bounds = tuple[float, float]
RESAMPLES = 2_000
TAIL = 0.025  # on either side
AT_ONCE = 1 << 21  # numbers drawn at once, 16 MiB


def with_interval(statistics_NK: "np.ndarray", score: Callable[["np.ndarray"], Score]) -> Score:
    """The score of N rows with its interval; without one if it is a count of rows.

    Args:
        statistics_NK: numbers per row, float64, as `EncodedSplit.judge` gives them.
        score: the score by the sums over the rows, as `EncodedSplit.score`.
    """
    import numpy as np

    found = score(statistics_NK.sum(0))
    if not found.metrics:
        return found
    if found.correct in (0, found.rows):
        return replace(found, interval=of_alike(found.value, found.rows))
    values_R = np.array([score(totals_K).value for totals_K in resampled(statistics_NK)])
    low, high = np.quantile(values_R, [TAIL, 1 - TAIL])
    return replace(found, interval=(float(low), float(high)))


def resampled(statistics_NK: "np.ndarray") -> Iterator["np.ndarray"]:
    """(K,) sums over N rows drawn with replacement, RESAMPLES times."""
    import numpy as np

    rows, rng = len(statistics_NK), np.random.default_rng(0)
    at_once = max(1, AT_ONCE // statistics_NK.size)
    for start in range(0, RESAMPLES, at_once):
        drawn_RN = rng.integers(rows, size=(min(at_once, RESAMPLES - start), rows))
        yield from statistics_NK[drawn_RN].sum(1)


def of_alike(value: float, rows: int) -> Bounds:
    """The interval if all rows score 0, or all 1."""
    most = TAIL ** (1 / rows)
    return (most, 1.0) if value else (0.0, 1 - most)
