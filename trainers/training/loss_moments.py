"""What adapters read over a task, and how its loss feels a change of what layers give, for the functional penalty.

Both are second moments, over a sample of the rows and in one pass: of h_{t−1}, which an adapter reads, and of
∂loss/∂h_t, the gradient at what the layer gives, token by token, with the task's own answers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from trainers.data.batching import sorted_batches
from trainers.methods.base import LossMoments, Moment
from trainers.methods.targets import width
from trainers.models.base import Backbone
from trainers.objectives.base import EncodedSplit
from trainers.training.second_moments import dealt, masked_losses

ROWS = 400  # more changed no score of 14 tasks


def loss_moments(
    backbone: Backbone, modules: Mapping[str, nn.Module], split: EncodedSplit, batch_size: int, seed: int
) -> LossMoments:
    """Σ h hᵀ and Σ g gᵀ, g = ∂loss/∂h_t, over the tokens of `ROWS` rows and over all ranks. Collective.

    Args:
        modules: the adapted layers, with the task's adapters on them.
        batch_size: rows that all ranks together read at once.
        seed: draws the rows.

    Returns:
        Two (D, D) in float32 per layer, on the backbone's device. The second is 0 for a layer that the loss does not
        depend on.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split.terms))[:ROWS])
    lengths = (split.lengths + split.terms)[chosen]
    batches = [chosen[rows] for rows in sorted_batches(lengths, max(1, batch_size // dist.get_world_size()))]
    mine, lacks = dealt(batches)
    of_answers = backbone.reads_answers(modules)

    def read(rows: np.ndarray, sums: Mapping[str, tuple[Moment, Moment]]) -> None:
        loss = masked_losses(split, rows, sums, of_answers).sum()
        if loss.requires_grad:
            loss.backward()

    sums = moments_of(modules, backbone.device)
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):  # blocks were compiled without the sums
        with listening(modules, sums):
            for rows in mine:
                read(rows, sums)
        if lacks:
            idle = moments_of(modules, backbone.device)
            with listening(modules, idle):
                read(batches[0], idle)  # in step with the other ranks; it does not count
    found = {name: (read.sum_DD, felt.sum_DD) for name, (read, felt) in sums.items()}
    for pair in found.values():
        for moment_DD in pair:
            dist.all_reduce(moment_DD)
    return found


def moments_of(modules: Mapping[str, nn.Module], device: torch.device) -> dict[str, tuple[Moment, Moment]]:
    """Two empty sums per layer."""

    def empty(module: nn.Module) -> Moment:
        return Moment(torch.zeros(width(module), width(module), device=device))

    return {name: (empty(module), empty(module)) for name, module in modules.items()}


@contextmanager
def listening(modules: Mapping[str, nn.Module], sums: Mapping[str, tuple[Moment, Moment]]) -> Iterator[None]:
    """Within the block the layers add what their adapters read and the gradient at what they give."""
    for name, module in modules.items():
        module.__dict__["moment"], module.__dict__["felt"] = sums[name]
    try:
        yield
    finally:
        for module in modules.values():
            del module.__dict__["moment"], module.__dict__["felt"]
