"""95% intervals of what is read from a stream's scores: of shares of rows, and of metrics of learning and forgetting.

Both say how much other test rows would change a figure, and nothing of another seed of training.

A share p = c/N of correct rows: the bootstrap over rows draws Binomial(N, p) correct ones, so the bounds are that
distribution's 2.5% and 97.5% quantiles over N (Efron, 1979), exactly and without drawing. For rows that are all alike
see `trainers.objectives.intervals`, which has the bounds of other scores.

A metric of a stream is a mean over tasks of scores, or of differences of scores, and tasks do not share rows. With h
the half-widths (upper − lower) / 2 of the scores, that of a mean over n tasks is √Σ h² / n (propagation of independent
errors). Both scores of a difference are of the same rows. What one model finds easy the other mostly does too, and the
half-width √(h₁² + h₂²), which leaves that out, is then too wide rather than too narrow: an interval of BWT, forgetting
or FWT that does not hold 0 is one at the least. Which earlier score is the best one is taken as given.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from orchestrator.track.metrics import Row, best_before
from trainers.objectives.intervals import TAIL, Bounds, of_alike

Term = Sequence[float | None]  # half-widths of the scores that a term of a mean has: of one, or of a difference's two


@lru_cache(maxsize=4096)
def of_share(correct: float, rows: int) -> Bounds:
    """The interval of correct / rows, with 0 ≤ correct ≤ rows and rows > 0."""
    share = correct / rows
    if not 0 < share < 1:
        return of_alike(share, rows)
    spread = 10 * math.sqrt(rows * share * (1 - share)) + 10  # beyond it there is less than 1e-20
    first, last = max(0, math.floor(correct - spread)), min(rows, math.ceil(correct + spread))
    chance, below, found = log_chance(first, rows, share), 0.0, list[float]()
    for count in range(first, last + 1):
        below += math.exp(chance)
        while len(found) < 2 and below >= (TAIL, 1 - TAIL)[len(found)]:
            found.append(count / rows)
        chance += math.log((rows - count) / (count + 1) * share / (1 - share)) if count < rows else 0.0
    low, high = found
    return low, high


def log_chance(count: int, rows: int, share: float) -> float:
    """log of the chance of `count` correct ones among `rows`."""
    ways = math.lgamma(rows + 1) - math.lgamma(count + 1) - math.lgamma(rows - count + 1)
    return ways + count * math.log(share) + (rows - count) * math.log1p(-share)


def half(bounds: Bounds | None) -> float | None:
    """(upper − lower) / 2, None without bounds."""
    return None if bounds is None else (bounds[1] - bounds[0]) / 2


def half_widths(
    matrix: Sequence[Row],
    halves: Sequence[Row],
    zero_halves: Row,
    rows: Sequence[int],
    alike: Sequence[Row] | None = None,
) -> dict[str, float | None]:
    """The half-width of each metric of `metrics.summary`, which has the same `alike`; None if the metric has no value,
    or a score no interval.

    `halves[i][j]` and `zero_halves[j]` are half-widths of the scores that `matrix[i][j]` and zero_shot[j] stand for.
    """
    done, last = range(len(matrix)), len(matrix) - 1
    scored = [j for j in done if matrix[last][j] is not None]
    first = [j for j in done if matrix[j][j] is not None]
    compared = matrix if alike is None else alike
    both = [j for j in scored if j < last and compared[j][j] is not None]
    best = [(j, place) for j in scored if j < last and (place := best_before(compared, j)) is not None]
    ahead = [j for j in done[1:] if compared[j - 1][j] is not None]
    return {
        "aa": of_mean([[halves[last][j]] for j in scored]),
        "aa_micro": of_mean([[halves[last][j]] for j in scored], [rows[j] for j in scored]),
        "bwt": of_mean([[halves[last][j], halves[j][j]] for j in both]),
        "forgetting": of_mean([[halves[last][j], halves[place][j]] for j, place in best]),
        "fwt": of_mean([[halves[j - 1][j], zero_halves[j]] for j in ahead]),
        "learning_accuracy": of_mean([[halves[j][j]] for j in first]),
    }


def of_mean(terms: Sequence[Term], weights: Sequence[float] = ()) -> float | None:
    """√Σ (w·h)² / Σ w over the terms and their half-widths, each weight 1 by default; None without terms, or if one has
    no half-width."""
    weights = weights or [1] * len(terms)
    found = [(w * h if h is not None else None) for term, w in zip(terms, weights, strict=True) for h in term]
    if None in found or not sum(weights):
        return None
    return math.hypot(*(each for each in found if each is not None)) / sum(weights)
