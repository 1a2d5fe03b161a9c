"""Accuracy of the model as it stands on one split, over all ranks."""

import numpy as np
import torch
import torch.distributed as dist

from trainers.messages import Score
from trainers.models.base import Backbone, Labels
from trainers.models.tokens import TokenizedSplit


@torch.no_grad()
def evaluate(backbone: Backbone, split: TokenizedSplit, labels: Labels, batch_size: int) -> Score:
    """Rows whose predicted label, among the task's own, is the right one. Each rank takes every n-th row.

    All ranks make the same number of forward passes, since under ZeRO 3 each is a collective call; where one has no row
    left it repeats one that does not count.

    Args:
        split: the same on all ranks.
        labels: as the backbone encodes them.
        batch_size: texts a forward pass, a rank.
    """
    order, ranks = np.argsort(split.lengths, kind="stable"), dist.get_world_size()
    correct = torch.zeros((), dtype=torch.int64, device=backbone.device)
    for start in range(0, len(order), batch_size * ranks):
        dealt = order[start : start + batch_size * ranks]
        mine = dealt[dist.get_rank() :: ranks]
        rows = np.resize(mine if len(mine) else dealt, -(-len(dealt) // ranks))
        guesses_B = backbone.predict([split.token_ids[i] for i in rows], labels, batch_size)
        correct += (guesses_B == backbone.to_device(split.targets[rows]))[: len(mine)].sum()
    dist.all_reduce(correct)
    return Score(int(correct), len(split.targets))
