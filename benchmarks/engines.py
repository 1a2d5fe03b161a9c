"""Engines that stand in for DeepSpeed's in `task_rows.py`: PyTorch alone, and whole steps as CUDA graphs.

Shape suffixes: B rows, S tokens, C classes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.config import TrainConfig, learning_rate_factor
from trainers.data.collate import Batch
from trainers.models.base import Labels
from trainers.models.encoder import LabelEmbedding
from trainers.objectives.classification import ClassifiedSplit
from trainers.training.engine import TaskModel

MULTIPLE = 16  # of which the lengths of captured steps are


class PlainEngine:
    """What `train_batch` asks of an engine, from PyTorch alone; one process, no accumulation."""

    def __init__(self, model: TaskModel, train: TrainConfig, total_steps: int, *, capturable: bool = False) -> None:
        self.module, self.train = model, train
        self.parameters = list(model.trained.parameters())
        device, groups = self.parameters[0].device, []
        for group in model.attached.groups():
            rate: Any = group.learning_rate
            rate = torch.tensor(rate, device=device) if capturable else rate
            groups.append({"params": group.parameters, "lr": rate})
        self.optimizer = torch.optim.AdamW(
            groups, weight_decay=train.weight_decay, fused=device.type == "cuda", capturable=capturable
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, train.warmup_steps, total_steps)
        )

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The terms of the loss."""
        outputs: tuple[Tensor, ...] = self.module(*inputs)
        return outputs

    def backward(self, loss: Tensor) -> None:
        """Adds gradients."""
        loss.backward()

    def step(self) -> None:
        """One update."""
        self.update()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def update(self) -> None:
        """Clipping and AdamW."""
        nn.utils.clip_grad_norm_(self.parameters, self.train.max_grad_norm)
        self.optimizer.step()

    def destroy(self) -> None:
        """Nothing is left behind."""


@dataclass(frozen=True)
class Fixed(LabelEmbedding):
    """A backbone that reads its batch from `buffers`, where there are any, instead of what it is given."""

    buffers: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def batch(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Batch:
        """Ids, mask and targets."""
        return Batch(**self.buffers) if self.buffers else super().batch(token_ids, targets, labels)


@dataclass
class Slot:
    """The buffers of batches of one size and length, how often they were used, and the graph over them."""

    buffers: dict[str, Tensor]
    uses: int = 0
    graph: Any = None
    outputs: tuple[Tensor, ...] = ()


class GraphEngine(PlainEngine):
    """A batch size and length that was seen once is captured, forward to update, and replayed from then on."""

    def __init__(self, model: TaskModel, train: TrainConfig, total_steps: int) -> None:
        super().__init__(model, train, total_steps, capturable=True)
        self.slots: dict[tuple[int, int], Slot] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, split: ClassifiedSplit, rows: np.ndarray, scale: float) -> Any:
        """A whole step; `backward` and `step` have nothing left to do but the schedule."""
        slot = self.fill([split.token_ids[i] for i in rows], split.targets[rows])
        slot.uses += 1
        if slot.graph is None and slot.uses > 1 and len(rows) == self.train.batch_size:
            slot.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(slot.graph, pool=self.pool, stream=torch.cuda.current_stream()):
                slot.outputs = self.whole_step(slot, split, scale)
        if slot.graph is None:
            return self.whole_step(slot, split, scale)
        slot.graph.replay()
        return slot.outputs

    def whole_step(self, slot: Slot, split: ClassifiedSplit, scale: float) -> tuple[Tensor, ...]:
        """Forward, backward and update over what is in the buffers."""
        fixed: Any = self.module.backbone
        self.optimizer.zero_grad(set_to_none=True)
        fixed.buffers.update(slot.buffers)
        try:
            total, *terms = self.module(split, np.empty(0, np.int64), scale)
        finally:
            fixed.buffers.clear()
        total.backward()
        self.update()
        return total.detach(), *terms

    def fill(self, token_ids: list[list[int]], targets: np.ndarray) -> Slot:
        """The slot of a batch, with the batch in its buffers."""
        lengths = list(map(len, token_ids))
        length = -(-max(lengths) // MULTIPLE) * MULTIPLE
        if min(lengths) == length:  # without padding the model would drop the mask, and another graph be needed
            length += MULTIPLE
        backbone: Any = self.module.backbone
        padded = [[*row, *[backbone.tokenizer.pad_token_id] * (length - len(row))] for row in token_ids]
        mask = np.arange(length) < np.array(lengths)[:, None]
        arrays = {"ids": np.array(padded), "mask": mask.astype(np.int64), "targets": targets}
        fresh = {name: torch.from_numpy(array).pin_memory() for name, array in arrays.items()}
        key = len(token_ids), length
        if key not in self.slots:
            self.slots[key] = Slot({name: tensor.to(backbone.device) for name, tensor in fresh.items()})
        for name, tensor in fresh.items():
            self.slots[key].buffers[name].copy_(tensor, non_blocking=True)
        return self.slots[key]

    def backward(self, loss: Tensor) -> None:
        """Done."""

    def step(self) -> None:
        """The schedule."""
        self.schedule.step()
