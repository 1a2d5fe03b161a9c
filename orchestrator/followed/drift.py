"""Whether a later score differs from an earlier one by more than its rows explain. Pure functions of row scores.

Of the same rows, in the same order, with d = later − earlier row by row:

    rows that are right or wrong   the exact sign test over rows that changed (McNemar's)
    other row scores               the sign-flip test: under H0 each d has either sign with probability 1/2

Of other rows:

    rows that are right or wrong   Fisher's exact test of both counts
    other row scores               the permutation test of the difference of means

All are two-sided. The last of each pair draws 9,999 times, seeded, of up to `DRAWN` rows; of more it takes the normal
distribution with the mean and variance that all draws would have.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Verdict = Literal["better", "worse", "within noise"]
DRAWS, DRAWN = 9_999, 400
CHUNK = 303  # draws at once; 33 of them


@dataclass(frozen=True, kw_only=True)
class Change:
    """From an earlier score to a later one: `difference` of the means of their row scores, higher is better; the
    `test`, with its two-sided `p`; `changed` counts rows whose score is another, None if the rows are others."""

    difference: float
    p: float
    test: str
    changed: int | None

    @property
    def paired(self) -> bool:
        """Whether both are scores of the same rows."""
        return self.changed is not None

    def verdict(self, level: float) -> Verdict:
        """What it says at a level of significance."""
        if self.p >= level or not self.difference:
            return "within noise"
        return "better" if self.difference > 0 else "worse"


def change(before: "np.ndarray", after: "np.ndarray", *, paired: bool) -> Change:
    """From row scores to later ones, (n,) and (m,), from 0 to 1; n = m if they are `paired`, of the same rows in the
    same order."""
    difference = float(after.mean() - before.mean())
    bits = all(bool(((each == 0) | (each == 1)).all()) for each in (before, after))
    if paired:
        moved = int((before != after).sum())
        if bits:
            gained = int((after > before).sum())
            return Change(difference=difference, p=sign_test(gained, moved), test="McNemar, exact", changed=moved)
        return Change(difference=difference, p=flipped(after - before), test="sign flips of pairs", changed=moved)
    if bits:
        right = int(before.sum()), int(after.sum())
        p = fisher(right[0], len(before), right[1], len(after))
        return Change(difference=difference, p=p, test="Fisher, exact", changed=None)
    return Change(difference=difference, p=permuted(before, after), test="permutation of rows", changed=None)


def sign_test(gained: int, moved: int) -> float:
    """2 P(X ≤ min(gained, moved − gained)) with X of Binomial(moved, 1/2), at most 1; 1 if no row moved."""
    import numpy as np

    fewer = min(gained, moved - gained)
    logs = log_factorials(moved)
    each = logs[moved] - logs[: fewer + 1] - logs[moved - np.arange(fewer + 1)] - moved * math.log(2)
    return min(1.0, 2 * float(np.exp(each).sum()))


def fisher(right: int, rows: int, right_after: int, rows_after: int) -> float:
    """The probability, with all margins given, of a table that is no likelier than this one."""
    import numpy as np

    every, total = right + right_after, rows + rows_after
    counts = np.arange(max(0, every - rows_after), min(every, rows) + 1)
    logs = log_factorials(total)

    def ways(of: int, taken: "np.ndarray") -> "np.ndarray":
        return np.asarray(logs[of] - logs[taken] - logs[of - taken])

    each = ways(rows, counts) + ways(rows_after, every - counts)
    each -= logs[total] - logs[every] - logs[total - every]
    seen = each[right - counts[0]]
    return min(1.0, float(np.exp(each[each <= seen + 1e-9]).sum()))


def flipped(differences: "np.ndarray") -> float:
    """The share of sign flips whose |sum| is at least that of the differences, (n,); the observed one counts as one."""
    import numpy as np

    moved = differences[differences != 0].astype(np.float64)
    if not len(moved):
        return 1.0
    seen = abs(float(moved.sum()))
    if len(moved) > DRAWN:
        return two_sided(seen / math.sqrt(float((moved**2).sum())))
    rng, least = np.random.default_rng(0), seen * (1 - 1e-12)
    hits = 0
    for _ in range(0, DRAWS, CHUNK):
        signs = rng.integers(0, 2, (CHUNK, len(moved)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ moved) >= least).sum())
    return (hits + 1) / (DRAWS + 1)


def permuted(before: "np.ndarray", after: "np.ndarray") -> float:
    """The share of divisions of all rows into n and m whose difference of means is at least the observed one."""
    import numpy as np

    both = np.concatenate([before, after]).astype(np.float64)
    both -= both.mean()
    n, m = len(before), len(after)
    spread = float((both**2).sum()) / max(1, n + m - 1)
    if spread < 1e-24:
        return 1.0
    seen = abs(float(both[:n].sum()))  # the sum of the first n says all: that of the others is its negative
    if n + m > DRAWN:
        return two_sided(seen / math.sqrt(spread * n * m / (n + m)))
    rng, least = np.random.default_rng(0), seen * (1 - 1e-12)
    hits = 0
    for _ in range(0, DRAWS, CHUNK):
        drawn = rng.permuted(np.tile(both, (CHUNK, 1)), axis=1)
        hits += int((np.abs(drawn[:, :n].sum(1)) >= least).sum())
    return (hits + 1) / (DRAWS + 1)


def two_sided(z: float) -> float:
    """P(|Z| ≥ z) of the normal distribution."""
    return math.erfc(abs(z) / math.sqrt(2))


def log_factorials(most: int) -> "np.ndarray":
    """log k! for k from 0 to `most`, (most + 1,)."""
    import numpy as np

    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
