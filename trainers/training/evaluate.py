"""The score of the model as it stands on one split, over all ranks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist

from trainers.objectives.base import EncodedSplit, Judged, Scored
from trainers.objectives.intervals import with_interval


@torch.no_grad()
def evaluate(split: EncodedSplit, batch_size: int, rows: np.ndarray | None = None, keep: Sequence[int] = ()) -> Scored:
    """The split's score with its interval, and each row's own value, the same on all ranks. With n ranks, each takes
    every n-th row.

    All ranks make the same number of forward passes, since under ZeRO 3 each is a collective call. A rank that has no
    row left repeats one, which does not count.

    Args:
        split: the same on all ranks, with at least one row.
        batch_size: texts per forward pass and rank.
        rows: the row numbers to score, (n,), in any order; None is all.
        keep: rows whose answers are returned too, if the objective generates some.
    """
    picked = np.arange(len(split.lengths)) if rows is None else np.sort(rows)
    order, ranks = picked[np.argsort(split.lengths[picked], kind="stable")], dist.get_world_size()
    places, found = [], []
    said, cut = dict[int, str](), dict[int, int | None]()
    for start in range(0, len(order), batch_size * ranks):
        dealt = order[start : start + batch_size * ranks]
        mine = dealt[dist.get_rank() :: ranks]
        judged = split.judge(np.resize(mine if len(mine) else dealt, -(-len(dealt) // ranks)), batch_size)
        places.append(mine)
        found.append(columns(judged)[: len(mine)])
        said |= dict(zip(mine.tolist(), judged.answers, strict=False))
        cut |= dict(zip(mine.tolist(), judged.cut, strict=False))
    mine_MK = torch.cat(found)
    all_NK = mine_MK.new_zeros(len(split.lengths), mine_MK.shape[1])
    all_NK[torch.from_numpy(np.concatenate(places)).to(all_NK.device)] = mine_MK
    dist.all_reduce(all_NK)
    statistics, others = np.split(all_NK.cpu().numpy(), [judged.statistics.shape[1]], axis=1)
    union = None if judged.union is None else others[picked, -1]
    labels = None if judged.labels is None else others[picked, :2].astype(np.int64)
    answers = of_all(said, keep, all_NK.device) if keep and judged.answers else {}
    cuts = cuts_of_all(cut, keep, all_NK.device) if answers else {}
    one = {row: split.score(statistics[row], 1).metrics for row in answers}
    score = with_interval(statistics[picked], lambda totals: split.score(totals, len(picked)))
    return Scored(score, statistics[picked, 0], answers, one, cuts, union, labels)


def columns(judged: Judged) -> torch.Tensor:
    """What ranks add up of B rows: (B, K) statistics, and behind them the answered and the right label, if there are
    some, and what was found among the labels of several tasks, if that was asked."""
    others = [*(judged.labels or ()), *([] if judged.union is None else [judged.union])]
    return torch.cat([judged.statistics.double(), *(each.double().unsqueeze(1) for each in others)], 1)


def cuts_of_all(mine: Mapping[int, int | None], keep: Sequence[int], device: torch.device) -> dict[int, int]:
    """The tokens after which answers were cut, of all ranks' answers to the rows `keep`. Collective."""
    cut_N = torch.tensor([mine.get(row) or 0 for row in keep], device=device)
    dist.all_reduce(cut_N)
    return {row: tokens for row, tokens in zip(keep, cut_N.tolist(), strict=True) if tokens}


def of_all(mine: Mapping[int, str], keep: Sequence[int], device: torch.device) -> dict[int, str]:
    """The answers of all ranks to the rows `keep`, each of which one rank has in `mine`. Collective."""
    data = [mine.get(row, "").encode("utf-8", "surrogatepass") for row in keep]
    sizes_N = torch.tensor([len(each) for each in data], device=device)
    dist.all_reduce(sizes_N)
    sizes = sizes_N.tolist()
    padded = b"".join(each.ljust(max(sizes), b"\0") for each in data)
    bytes_NL = torch.frombuffer(bytearray(padded or b"\0"), dtype=torch.uint8).to(device)
    dist.all_reduce(bytes_NL)
    rows = bytes_NL[: len(padded)].cpu().numpy().reshape(len(keep), -1)
    return {
        row: each[:size].tobytes().decode("utf-8", "surrogatepass")
        for row, each, size in zip(keep, rows, sizes, strict=True)
    }
