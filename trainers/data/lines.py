"""Rows of a decoder that are trained on some of their tokens, packed into lines: no row is cut, none sees another.

Shape suffixes: L lines, S tokens of a line, N trained tokens of all rows.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainers.data.collate import Batch


@dataclass(frozen=True, eq=False, kw_only=True)
class Lines(Batch):
    """Rows in lines, one or more per line.

    ids, mask, positions: (L, S); positions start anew with each row, which is how a model sees where one begins.
    answers: (N,) tokens to predict, row after row. places: (N,) index into L · S of the token before each.
    row: (N,) the row of each. rows: how many there are. packed: whether a line has several rows.
    """

    places: Tensor
    row: Tensor
    rows: int
    packed: bool

    @property
    def attention(self) -> Tensor | None:
        """None if a line has several rows: a mask would hide from the model that positions start anew."""
        return None if self.packed else self.mask

    def sums(self, values_N: Tensor) -> Tensor:
        """(B,) sum per row of a value per trained token."""
        return values_N.new_zeros(self.rows).index_add(0, self.row, values_N)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows dealt to lines of `capacity` tokens, longest first. Each goes into the line with the fewest free
    tokens that hold it."""
    lines: list[list[int]] = []
    free: list[tuple[int, int]] = []  # free tokens and index of each line that has some, sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        at = bisect_left(free, (length, -1))
        left, line = free.pop(at) if at < len(free) else (capacity, len(lines))
        if line == len(lines):
            lines.append([])
        lines[line].append(index)
        if left > length:
            insort(free, (left - length, line))
    return lines


def in_lines(ids: Sequence[np.ndarray], trained: Sequence[np.ndarray], pad_id: int, capacity: int | None) -> Lines:
    """Rows as one batch on the host.

    Args:
        ids: token ids per row, at least one per row.
        trained: whether each token is predicted; the first token of a row never is.
        pad_id: the token that stands for padding, on the right.
        capacity: tokens of a line, at least those of the longest row; None for one row per line.
    """
    lengths = [len(row) for row in ids]
    lines = [[i] for i in range(len(ids))] if capacity is None else best_fit(lengths, capacity)
    longest = max(sum(lengths[i] for i in line) for line in lines)
    shape = (len(lines), longest)
    line_ids, mask, positions = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    places: list[np.ndarray] = [np.empty(0, np.int64)] * len(ids)
    for number, line in enumerate(lines):
        start = 0
        for index in line:
            end = start + lengths[index]
            line_ids[number, start:end], mask[number, start:end] = ids[index], 1
            positions[number, start:end] = np.arange(lengths[index])
            predicted = np.flatnonzero(trained[index][1:])
            places[index] = number * longest + start + predicted
            start = end
    answers = [row[1:][flags[1:]] for row, flags in zip(ids, trained, strict=True)]
    counts = list(map(len, places))
    return Lines(
        ids=torch.from_numpy(line_ids),
        mask=torch.from_numpy(mask),
        positions=torch.from_numpy(positions),
        answers=torch.from_numpy(np.concatenate(answers).astype(np.int64)),
        places=torch.from_numpy(np.concatenate(places)),
        row=torch.from_numpy(np.repeat(np.arange(len(ids)), counts)),
        rows=len(ids),
        packed=capacity is not None,
    )
