"""The interval of a difference of two methods: the paired bootstrap over test rows and seeds.

Both methods were scored on the same test rows, in every order and with every seed. A draw takes, with replacement, as
many seeds as there are, and of each task as many rows as it has; all cells of both methods take the same draw. Orders
are not drawn: they are the protocol. With one seed, the interval says nothing of another one.

Shape suffixes: C pairs of cells, N rows of a task, B draws, S seeds.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trainers.objectives.paired import DRAWS, counts

LEVEL = 0.95

Values = Mapping[str, np.ndarray]  # of one cell: task → (N,) the value of each test row, from 0 to 1


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of AA, a fraction, and the bounds of its 95% interval; from how many pairs of cells and seeds."""

    value: float
    low: float
    high: float
    cells: int
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired(pairs: Sequence[tuple[int, Values, Values]], draws: int = DRAWS) -> Difference | None:
    """The difference of the means over cells of AA, first minus second; None if there are no pairs.

    Args:
        pairs: per pair of cells of the same order and seed: the seed, and the values of both.
        draws: how many.
    """
    if not pairs:
        return None
    seeds, tasks = [seed for seed, *_ in pairs], sorted(pairs[0][1])
    drawn_CB, value_C = np.zeros((len(pairs), draws)), np.zeros(len(pairs))
    for task in tasks:
        difference_CN = np.stack([first[task] - second[task] for _, first, second in pairs])
        rows = difference_CN.shape[1]
        drawn_CB += difference_CN @ counted(task, rows, draws) / rows / len(tasks)
        value_C += difference_CN.mean(axis=1) / len(tasks)
    known = sorted({*seeds})
    weights_CB = counted("seeds", len(known), draws)[[known.index(seed) for seed in seeds]].astype(float)
    drawn_B = (drawn_CB * weights_CB).sum(axis=0) / weights_CB.sum(axis=0)
    low, high = np.quantile(drawn_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(value=float(value_C.mean()), low=float(low), high=float(high), cells=len(pairs), seeds=len(known))


@lru_cache(maxsize=256)
def counted(name: str, size: int, draws: int) -> np.ndarray:
    """(size, draws), uint16: how often each of `size` is in each draw of as many with replacement; fixed by the
    name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return counts(rng, np.full(size, 1 / size), size, draws).astype(np.uint16)
