"""What adapters read over a task, for input-side protection: its second moment, layer by layer.

Rows of similar length go together, as in training, and padding is left out of the sums. If texts are long, batches of
equal length would be four to fifteen times as many. For a T5-large on an H100 they took four times as long as an epoch.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.data.batching import sorted_batches
from trainers.methods.base import Moment
from trainers.methods.targets import input_width, width
from trainers.models.base import Backbone
from trainers.objectives.base import EncodedSplit


@torch.no_grad()
def second_moments(
    backbone: Backbone,
    modules: Mapping[str, nn.Module],
    split: EncodedSplit,
    batch_size: int,
    *,
    inputs: bool = False,
) -> dict[str, Tensor]:
    """Σ h hᵀ of what each adapter reads, over all tokens of the rows and their answers and over all ranks. Collective.

    Args:
        modules: the adapted layers, with the task's adapters on them.
        batch_size: rows that all ranks together read at once.
        inputs: whether the adapters of these layers read what the layer reads, instead of what it gives.

    Returns:
        (D, D) float32 per layer, or (K, K) of inputs, on the backbone's device.
    """
    batches = sorted_batches(split.lengths + split.terms, max(1, batch_size // dist.get_world_size()))
    mine, lacks = dealt(batches)
    size = input_width if inputs else width
    sums = {name: Moment(torch.zeros(size(each), size(each), device=backbone.device)) for name, each in modules.items()}

    with torch.compiler.set_stance("force_eager"):  # blocks were compiled without the sums
        of_answers = backbone.reads_answers(modules)
        moments = {name: [moment] for name, moment in sums.items()}
        for name, module in modules.items():
            module.__dict__["moment"] = sums[name]
        for rows in mine:
            masked_losses(split, rows, moments, of_answers)
        for module in modules.values():
            module.__dict__.pop("moment")
        if lacks:
            masked_losses(split, batches[0], moments, of_answers)  # in step with the other ranks; it does not count
    for moment in sums.values():
        dist.all_reduce(moment.sum_DD)
    return {name: moment.sum_DD for name, moment in sums.items()}


def dealt(batches: Sequence[np.ndarray]) -> tuple[Sequence[np.ndarray], bool]:
    """This rank's batches, and whether another rank has one more."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    mine = batches[rank::world_size]
    return mine, len(mine) < -(-len(batches) // world_size)


def masked_losses(
    split: EncodedSplit, rows: np.ndarray, moments: Mapping[str, Sequence[Moment]], of_answers: Collection[str]
) -> Tensor:
    """The losses of these rows. The moments of each layer get its mask; `of_answers` are layers that read answers."""
    batch = split.batch(rows)
    for name, each in moments.items():
        for moment in each:
            moment.mask = batch.answers_mask if name in of_answers else batch.mask
    return split.losses(batch)
