"""What adapters read over a task, for input-side protection: its second moment, layer by layer.

Rows of similar length go together, as in training, and padding is left out of the sums. Batches of equal length are
four to fifteen times as many where texts are long: on a T5-large on an H100 they took four times as long as an epoch.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.data.batching import sorted_batches
from trainers.methods.oa.layers import Moment
from trainers.methods.targets import width
from trainers.models.base import Backbone, Labels
from trainers.models.tokens import TokenizedSplit


@torch.no_grad()
def second_moments(
    backbone: Backbone, modules: Mapping[str, nn.Module], split: TokenizedSplit, labels: Labels, batch_size: int
) -> dict[str, Tensor]:
    """Σ h hᵀ of what each adapter reads, over all tokens of the rows and their answers and over all ranks. Collective.

    Args:
        modules: the adapted layers, with the adapters as they are to be read.
        batch_size: rows that all ranks together read at once.

    Returns:
        (D, D) float32 a layer, on the backbone's device.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    answers = backbone.units(labels)[split.targets]
    real: dict[torch.Size, Tensor] = {}
    reading = replace(backbone, real=real)
    for module in modules.values():
        module.__dict__["moment"] = Moment(torch.zeros(width(module), width(module), device=backbone.device), real)
    batches = sorted_batches(split.lengths + answers, max(1, batch_size // world_size))
    mine = batches[rank::world_size]

    def read(rows: np.ndarray) -> None:
        real.clear()
        padded = -(-int(split.lengths[rows].max()) // backbone.pad_multiple) * backbone.pad_multiple
        apart = padded + 1 if padded == answers[rows].max() else backbone.pad_multiple  # a shape has one mask
        texts = [split.token_ids[i] for i in rows]
        replace(reading, pad_multiple=apart).row_losses(texts, split.targets[rows], labels)

    with torch.compiler.set_stance("force_eager"):  # blocks were compiled without the sums
        for rows in mine:
            read(rows)
        moments = {name: module.__dict__.pop("moment").sum_DD for name, module in modules.items()}
        if len(mine) < -(-len(batches) // world_size):
            read(batches[0])  # in step with the other ranks; it does not count
    for moment_DD in moments.values():
        dist.all_reduce(moment_DD)
    return moments
