"""The score of the model as it stands on one split, over all ranks."""

import numpy as np
import torch
import torch.distributed as dist

from trainers.objectives.base import EncodedSplit, Scored


@torch.no_grad()
def evaluate(split: EncodedSplit, batch_size: int) -> Scored:
    """The split's score, and each row's own value, the same on all ranks. With n ranks, each takes every n-th row.

    All ranks make the same number of forward passes, since under ZeRO 3 each is a collective call. A rank that has no
    row left repeats one, which does not count.

    Args:
        split: the same on all ranks, with at least one row.
        batch_size: texts per forward pass and rank.
    """
    order, ranks = np.argsort(split.lengths, kind="stable"), dist.get_world_size()
    places, found = [], []
    for start in range(0, len(order), batch_size * ranks):
        dealt = order[start : start + batch_size * ranks]
        mine = dealt[dist.get_rank() :: ranks]
        rows = np.resize(mine if len(mine) else dealt, -(-len(dealt) // ranks))
        places.append(mine)
        found.append(split.judge(rows, batch_size)[: len(mine)].double())
    mine_MK = torch.cat(found)
    all_NK = mine_MK.new_zeros(len(order), mine_MK.shape[1])
    all_NK[torch.from_numpy(np.concatenate(places)).to(all_NK.device)] = mine_MK
    dist.all_reduce(all_NK)
    statistics = all_NK.cpu().numpy()
    return Scored(split.score(statistics.sum(0)), statistics[:, 0])
