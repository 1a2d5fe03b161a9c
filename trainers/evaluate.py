"""Accuracy of the model as it stands on one split, over all ranks.

Shape suffixes: C classes, D model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainers.messages import Score
from trainers.models import Backbone


@dataclass(frozen=True)
class TokenizedSplit:
    """Rows of one split: token ids and label indices, aligned."""

    token_ids: list[list[int]]
    targets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens a row."""
        return np.fromiter(map(len, self.token_ids), dtype=np.int64, count=len(self.token_ids))


def tokenize(backbone: Backbone, texts: Sequence[str], targets: Sequence[int]) -> TokenizedSplit:
    """Token ids of every text, cut at the model's `max_length`."""
    return TokenizedSplit(backbone.tokenize(texts), np.asarray(targets, dtype=np.int64))


@torch.no_grad()
def evaluate(backbone: Backbone, split: TokenizedSplit, labels_CD: Tensor, batch_size: int) -> Score:
    """Rows whose nearest label word, among the task's own labels, is the right one. Each rank takes every n-th row.

    Args:
        split: the same on all ranks.
        labels_CD: (C, D) unit label embeddings.
        batch_size: rows a forward pass, a rank.
    """
    mine = np.argsort(split.lengths, kind="stable")[dist.get_rank() :: dist.get_world_size()]
    correct = torch.zeros((), dtype=torch.int64, device=backbone.device)
    for start in range(0, len(mine), batch_size):
        rows = mine[start : start + batch_size]
        logits_BC = backbone.logits([split.token_ids[i] for i in rows], labels_CD)
        targets_B = torch.as_tensor(split.targets[rows], device=backbone.device)
        correct += (logits_BC.argmax(-1) == targets_B).sum()
    dist.all_reduce(correct)
    return Score(int(correct), len(split.targets))
