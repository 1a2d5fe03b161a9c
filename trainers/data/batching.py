"""Which rows go into which batch: seeded, grouped by length so that little is padding, the same on every rank.

Also which rows stand for a split if not all are read.
"""

import numpy as np

POOL_BATCHES = 32  # rows are shuffled, then sorted by length within pools of this many batches


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Effective batches of one epoch: every row once, rows of similar length together, batches in random order.

    Args:
        lengths: (N,) tokens per row.
        batch_size: rows of an effective batch; the last one may hold fewer.
        seed, epoch: together they determine the result.

    Returns:
        ceil(N / batch_size) arrays of row indices.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = batch_size * POOL_BATCHES
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def drawn(rows: int, most: int | None, seed: int) -> np.ndarray:
    """At most `most` (None: all) of a split's `rows` row numbers, drawn by the seed: the first ones of one order, so
    that a smaller draw is within a larger one."""
    return np.random.default_rng(seed).permutation(rows)[:most]


def sorted_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Every row once, in ceil(N / batch_size) batches of rows of similar length, shortest first."""
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def micro_batches(batch: np.ndarray, accumulation: int, rank: int, world_size: int) -> list[np.ndarray]:
    """This rank's share of an effective batch as `accumulation` arrays of row indices, dealt like cards.

    Shares differ by at most one row and may be empty; together all ranks' shares are `batch`.
    """
    shares = accumulation * world_size
    return [batch[micro * world_size + rank :: shares] for micro in range(accumulation)]
