"""The trainable side of one task under DeepSpeed: model with adapters, optimizer, schedule, engine.

The engine owns the adapters only. The frozen base stays outside it, in its own dtype, so an engine costs milliseconds
and a task leaves nothing behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.adapters.budget import budget_loss
from trainers.adapters.layers import OAAdapter
from trainers.adapters.orthogonality import BatchedBases
from trainers.batching import micro_batches
from trainers.config import AdapterConfig, TrainConfig
from trainers.evaluate import TokenizedSplit
from trainers.models import Backbone


@dataclass(frozen=True)
class Losses:
    """The terms of L = L_task + λ_orth · L_orth + λ_budget · L_budget of one micro-batch.

    `task_rows` is this rank's sum of row losses; `orthogonality` and `budget` come without their weights.
    """

    total: Tensor
    task_rows: Tensor
    orthogonality: Tensor
    budget: Tensor


class TaskModel(nn.Module):
    """Frozen backbone with one task's adapters. Only the adapters are registered, hence trained, moved and stored."""

    backbone: Backbone
    named: dict[str, OAAdapter]

    def __init__(self, backbone: Backbone, adapters: dict[str, OAAdapter], config: AdapterConfig) -> None:
        """`adapters` maps module names to the adapters attached to the backbone."""
        super().__init__()
        self.adapters = nn.ModuleDict({name.replace(".", "/"): adapter for name, adapter in adapters.items()})
        self.__dict__.update(backbone=backbone, named=adapters)
        bases = {name: adapter.written for name, adapter in adapters.items()}
        self.batched = BatchedBases(bases if config.orthogonality.penalises else {})
        self.orthogonality_weight = config.orthogonality.weight
        self.budget_weight = config.budget_weight

    def forward(
        self, token_ids: Sequence[Sequence[int]], targets_B: Tensor, weights_B: Tensor, labels_CD: Tensor, scale: float
    ) -> Losses:
        """Loss of one micro-batch.

        Args:
            token_ids: B rows of token ids.
            targets_B: (B,) label indices.
            weights_B: (B,) 1 for a real row, 0 for one that only keeps this rank in step.
            labels_CD: (C, D) unit label embeddings.
            scale: what the sum of row losses is multiplied by, so that averaging over ranks and micro-batches gives
                the mean over the rows of the effective batch.
        """
        logits_BC = self.backbone.logits(token_ids, labels_CD)
        rows_B = nn.functional.cross_entropy(logits_BC, targets_B, reduction="none") * weights_B
        orthogonality = self.batched.penalty({name: adapter.W2 for name, adapter in self.named.items()})
        budget = budget_loss(adapter.gamma() for adapter in self.named.values())
        total = rows_B.sum() * scale + self.orthogonality_weight * orthogonality + self.budget_weight * budget
        return Losses(total, rows_B.sum().detach(), orthogonality.detach(), budget.detach())


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to 1 over `warmup_steps` (at most half of all), then linear decay to 0 at `total_steps`."""
    warmup = min(warmup_steps, total_steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))


def build_engine(model: TaskModel, train: TrainConfig, zero_stage: int, world_size: int, total_steps: int) -> Any:
    """A DeepSpeed engine over the adapters: AdamW, g and τ at their own rate and without weight decay."""
    import deepspeed

    # On CPUs DeepSpeed would compile a shared-memory all-reduce at first use: two minutes and a compiler. gloo serves.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    matrices = [p for a in model.named.values() for p in (a.W1, a.W2)]
    gates = [p for a in model.named.values() for p in (a.g, a.tau)]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "lr": train.learning_rate, "weight_decay": train.weight_decay},
            {"params": gates, "lr": train.learning_rate * train.budget_learning_rate_factor, "weight_decay": 0.0},
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, train.warmup_steps, total_steps)
    )
    micro = max(1, train.batch_size // (world_size * train.gradient_accumulation_steps))
    settings = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=settings)
    return engine


def train_batch(engine: Any, split: TokenizedSplit, batch: np.ndarray, labels_CD: Tensor, accumulation: int) -> Losses:
    """Forward, backward and update over one effective batch, dealt to all ranks and `accumulation` micro-batches.

    Every row weighs the same, however unevenly the batch divides: DeepSpeed averages gradients over ranks and
    micro-batches, so each row's loss is multiplied by their number and divided by the rows of the batch.

    Returns:
        The terms of the last micro-batch; `task_rows` is this rank's sum over all of them.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = labels_CD.device
    scale = world_size * accumulation / len(batch)
    row_losses = torch.zeros((), device=device)
    for rows in micro_batches(batch, accumulation, rank, world_size):
        present = rows if len(rows) else batch[:1]
        weights_B = torch.full((len(present),), float(len(rows) > 0), device=device)
        targets_B = torch.as_tensor(split.targets[present], device=device)
        losses = engine([split.token_ids[i] for i in present], targets_B, weights_B, labels_CD, scale)
        engine.backward(losses.total)
        engine.step()
        row_losses += losses.task_rows
    return Losses(losses.total, row_losses, losses.orthogonality, losses.budget)
