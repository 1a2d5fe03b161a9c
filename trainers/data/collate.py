"""From rows of token ids to the batches of one forward pass: padded, or by another class with the same interface.

Shape suffixes: B rows, S tokens of a row, A tokens of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from trainers.data.batching import epoch_batches


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """What one forward pass reads.

    ids: (B, S) token ids.
    mask: (B, S) int64, 1 for a token and 0 for padding.
    positions: (B, S) place of each token in its row; None if they follow from the mask.
    answers, answers_mask: (B, A) token ids to predict, and 1 for a token, 0 for padding; None if there are none.
    keep: (A,) columns of `ids` whose logits predict the answers; None if the answers are the last A columns.
    targets: (B,) label indices; None if answers are predicted.
    among: (B, 2) first and last + 1 of the labels that a row's task has; None if all rows have all labels.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor | None = None
    answers: Tensor | None = None
    answers_mask: Tensor | None = None
    keep: Tensor | None = None
    targets: Tensor | None = None
    among: Tensor | None = None

    @property
    def attention(self) -> Tensor | None:
        """What the model gets as its attention mask."""
        return self.mask

    def sums(self, values_BA: Tensor) -> Tensor:
        """(B,) sum per row of a value per token of the answers, padding left out."""
        assert self.answers_mask is not None
        return (values_BA * self.answers_mask).sum(-1)

    def to(self, device: torch.device) -> Self:
        """The same on `device`, without waiting for the copy."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: moved_to(value, device) for name, value in found.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class Collate(Protocol):
    """Which rows go together, and how they become one batch on the host."""

    def batches(self, lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Effective batches of one epoch as row indices: every row once, at most `size` rows per batch.

        Args:
            lengths: (N,) tokens per row.
            seed, epoch: together with the lengths and the size they determine the result.
        """

    def __call__(
        self, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]] = (), *, pad_id: int, left: bool = False
    ) -> Batch:
        """The rows as one batch, in order.

        Args:
            rows: token ids per row, at least one per row.
            answers: token ids to predict, one sequence per row, or none.
            pad_id: the token that stands for padding.
            left: rows are padded on the left. With answers they are a decoder's, and each ends with its answer.
        """


@dataclass(frozen=True)
class Padded:
    """Rows of similar length together, padded to the longest of their batch, rounded up to a multiple."""

    multiple: int = 1

    def batches(self, lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
        """See `epoch_batches`."""
        return epoch_batches(lengths, size, seed, epoch)

    def __call__(
        self, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]] = (), *, pad_id: int, left: bool = False
    ) -> Batch:
        """One line of the batch per row; answers on the same side, not rounded up."""
        ids, mask = padded(rows, pad_id, left, self.multiple)
        if not answers:
            return Batch(ids=ids, mask=mask)
        answer_ids, answers_mask = padded(answers, pad_id, left)
        return Batch(ids=ids, mask=mask, answers=answer_ids, answers_mask=answers_mask)


def padded(rows: Sequence[Sequence[int]], pad_id: int, left: bool, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (B, S) int64; S is the longest row's, rounded up."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    longest = -(-int(lengths.max()) // multiple) * multiple
    mask = np.arange(longest) < lengths[:, None]
    if left:
        mask = mask[:, ::-1]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return torch.from_numpy(ids), torch.from_numpy(np.ascontiguousarray(mask.astype(np.int64)))


def moved_to(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
