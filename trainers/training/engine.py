"""The trainable side of one task under DeepSpeed: model with what a method trains, optimizer, schedule, engine.

The engine owns only what is trained. The frozen base stays outside it, in its own dtype, so an engine is built in
milliseconds, and a task leaves nothing behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.config import TrainConfig, learning_rate_factor
from trainers.data.batching import micro_batches
from trainers.methods.base import Attached
from trainers.models.base import Backbone
from trainers.objectives.base import EncodedSplit


@dataclass(frozen=True)
class Losses:
    """The terms of L = L_task + Σ weight · penalty of one micro-batch.

    `task` is this rank's sum of loss terms; `penalties` are those of the method by name, without their weights.
    """

    total: Tensor
    task: Tensor
    penalties: Mapping[str, Tensor]


class TaskModel(nn.Module):
    """Frozen backbone with what a method trains. Only that is registered, hence trained, moved and stored."""

    backbone: Backbone
    attached: Attached
    penalties: tuple[str, ...] = ()  # names of those of the last forward pass

    def __init__(self, backbone: Backbone, attached: Attached) -> None:
        """`attached` is on the backbone's model."""
        super().__init__()
        self.trained = attached.module
        self.__dict__.update(backbone=backbone, attached=attached)

    def forward(self, split: EncodedSplit, rows: np.ndarray, scale: float) -> tuple[Tensor, ...]:
        """Total, task and penalties for one micro-batch.

        The result is a tuple, since DeepSpeed's hooks find tensors in nothing else; `losses` gives its parts names.

        Args:
            split: the rows that are trained on.
            rows: (B,) indices of the rows of `split`.
            scale: factor of the sum of loss terms, so that averaging over ranks and micro-batches gives the mean over
                the terms of the effective batch; 0 for rows that only keep this rank in step with the others.
        """
        penalties = self.attached.penalties()
        task = split.losses(split.batch(rows)).sum()
        total = task * scale
        for weight, value in penalties.values():
            total = total + weight * value
        self.penalties = tuple(penalties)
        values = (penalty.value.detach() for penalty in penalties.values())
        return total, task.detach() * float(scale > 0), *values

    def losses(self, outputs: tuple[Tensor, ...]) -> Losses:
        """The outputs of the last forward pass, with names."""
        total, task, *values = outputs
        return Losses(total, task, dict(zip(self.penalties, values, strict=True)))


def deepspeed_settings(train: TrainConfig, zero_stage: int, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a task's engine."""
    return {
        "train_micro_batch_size_per_gpu": max(1, train.batch_size // (world_size * train.gradient_accumulation_steps)),
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": {"stage": zero_stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def build_engine(model: TaskModel, train: TrainConfig, zero_stage: int, world_size: int, total_steps: int) -> Any:
    """A DeepSpeed engine over what the method trains: AdamW over its parameter groups."""
    import deepspeed

    # On CPUs DeepSpeed would compile a shared-memory all-reduce at first use, which takes two minutes and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    optimizer = torch.optim.AdamW(
        [
            {"params": group.parameters, "lr": group.learning_rate, "weight_decay": group.weight_decay}
            for group in model.attached.groups()
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, train.warmup_steps, total_steps)
    )
    settings = deepspeed_settings(train, zero_stage, world_size)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=settings)
    return engine


def train_batch(engine: Any, split: EncodedSplit, batch: np.ndarray, accumulation: int) -> Losses:
    """Forward, backward and update over one effective batch, dealt to all ranks and `accumulation` micro-batches.

    Every loss term (a row, or a target token) weighs the same, even if the batch divides unevenly. DeepSpeed averages
    gradients over ranks and micro-batches, so each term is multiplied by their number and divided by the batch's terms.

    Returns:
        The terms of the last micro-batch; `task` is this rank's sum over all of them.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    backbone: Backbone = engine.module.backbone
    scale = world_size * accumulation / int(split.terms[batch].sum())
    task = torch.zeros((), device=backbone.device)
    for rows in micro_batches(batch, accumulation, rank, world_size):
        present = rows if len(rows) else batch[:1]
        losses: Losses = engine.module.losses(engine(split, present, scale if len(rows) else 0.0))
        engine.backward(losses.total)
        engine.step()
        task += losses.task
    return replace(losses, task=task)
