"""One training stage: a task's adapters from their first values, or from a checkpoint, to their last.

Shape suffixes: D output width of a layer.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.errors import KeyAbsentError, TrainingError
from cluster.storage import Store
from trainers.config import AdapterConfig, TrainConfig
from trainers.messages import Job, Order, Progress, Saved
from trainers.methods.oa.bank import AdapterBank, ModuleState
from trainers.methods.oa.budget import cap_schedule
from trainers.methods.oa.history import History
from trainers.methods.oa.layers import use, width
from trainers.models.base import Backbone
from trainers.objectives.base import EncodedSplit
from trainers.training.checkpoint import Checkpoint, capture, restore
from trainers.training.engine import Losses, TaskModel, build_engine, train_batch
from trainers.training.second_moments import second_moments
from trainers.training.training_log import TrainingLog
from trainers.zero import release

Report = Callable[[Any], None]
PENALTY_TOLERANCE = 1e-3  # relative, between the penalty in the step and its dense reference; TF32 rounds to 5e-4
LOG = "log/"
EVIDENCE_ROWS = 10


class Leaving(Exception):
    """The driver is leaving; the task in training is kept. Raised on all ranks."""


@dataclass(frozen=True)
class Trained:
    """What a training stage leaves: adapters as they act, what their layers saw (Σ h hᵀ, (D, D)), and the log."""

    states: dict[str, ModuleState]
    moments: dict[str, Tensor]
    log: TrainingLog


@dataclass
class TaskTraining:
    """The training stage of one task on one rank; every method is collective."""

    job: Job
    order: Order
    name: str
    backbone: Backbone
    modules: Mapping[str, nn.Module]
    history: History
    split: EncodedSplit
    store: Store
    report: Report
    leaving: Callable[[], bool] = lambda: False
    log: TrainingLog = field(default_factory=TrainingLog)

    @cached_property
    def config(self) -> TrainConfig:
        """How to optimise; micro-batches are as the order says."""
        return self.job.train.model_copy(update={"gradient_accumulation_steps": self.order.accumulation})

    @property
    def adapter(self) -> AdapterConfig:
        """What to train."""
        return self.job.adapter

    def run(self) -> Trained:
        """Trains to the end.

        Raises:
            TrainingError: a loss or the adapter is not finite, or the penalty is not what it should be; on all ranks.
            Leaving: the task is kept as it stands, since the driver leaves; on all ranks.
        """
        self.backbone.model.train()
        try:
            done = self.resume()
            for step, batch in enumerate(self.batches(), start=1):
                if step > done:
                    self.step(step, batch)
            self.backbone.model.eval()
            states = self.bank.snapshot()
            moments = self.collect_moments() if self.adapter.orthogonality.projects_input else {}
        finally:
            self.backbone.model.eval()
            use(self.modules, {})
            self.engine.destroy()
            release(self.backbone.model)
        if not all(t.isfinite().all() for s in states.values() for t in (s.w1_RD, s.w2_DR, s.gamma_R)):
            raise self.diverged(f"the adapter is not finite after step {self.steps}", self.steps)
        return Trained(states, moments, self.log)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole task."""
        return self.config.steps(len(self.split.terms))

    @cached_property
    def seed(self) -> int:
        """Of initial values, row order and random numbers."""
        return self.config.task_seed(self.order.index)

    @cached_property
    def bank(self) -> AdapterBank:
        """New adapters, drawn on the CPU: all ranks and devices start from the same values."""
        generator = torch.Generator().manual_seed(self.seed)
        widths = {name: width(module) for name, module in self.modules.items()}
        bases = self.history.columns("written"), self.history.columns("read")
        return AdapterBank(widths, self.adapter, generator, *bases).to(self.backbone.device)

    @cached_property
    def engine(self) -> Any:
        """The DeepSpeed engine over the bank."""
        model = TaskModel(self.backbone, self.modules, self.bank, self.history.dtype)
        return build_engine(model, self.config, self.job.deepspeed.zero_stage, dist.get_world_size(), self.steps)

    def batches(self) -> Iterator[np.ndarray]:
        """Effective batches of all epochs, as row indices."""
        for epoch in range(self.config.epochs):
            yield from self.backbone.collate.batches(self.split.lengths, self.config.batch_size, self.seed, epoch)

    def step(self, step: int, batch: np.ndarray) -> None:
        """One update, and what is due at it: the check of the penalty, a row of the log, a checkpoint."""
        config = self.config
        seed_step(self.seed, step)
        if (most := self.adapter.max_parameters) is not None:
            self.bank.limit(cap_schedule(step, self.steps, self.bank.full, most))
        checked = step == min(config.warmup_steps + 1, self.steps) and self.adapter.orthogonality.penalises
        expected = self.dense_penalty() if checked else None
        losses = train_batch(self.engine, self.split, batch, config.gradient_accumulation_steps)
        if expected is not None:
            self.check_penalty(float(losses.orthogonality), expected)
        if step % config.logging_steps == 0 or step == self.steps:
            self.log_step(step, losses, batch)
        if config.checkpoint_steps and (step % config.checkpoint_steps == 0 or step == self.steps):
            self.save(step)

    def dense_penalty(self) -> float:
        """Σ over modules ‖Qᵀ W2‖_F² in float64 from whole matrices and the history itself, module by module."""
        written = self.history.columns("written")
        products = (written[n].double().T @ state.w2_DR.double() for n, state in self.bank.snapshot().items())
        return sum(float(product.square().sum()) for product in products)

    def check_penalty(self, found: float, expected: float) -> None:
        """Raises TrainingError where the penalty in the step is not its dense reference."""
        if abs(found - expected) > PENALTY_TOLERANCE * abs(expected) + 1e-12:
            raise TrainingError(
                f"task {self.name!r}: the orthogonality penalty is {found:.6g} in the step and {expected:.6g} computed "
                "from whole matrices; the adapters are not held away from earlier tasks. Report this, and use "
                "deepspeed.zero_stage 2 or adapter.orthogonality.mode projection meanwhile"
            )

    def log_step(self, step: int, losses: Losses, batch: np.ndarray) -> None:
        """Records loss over all ranks, penalty, overlap and budget.

        Raises:
            TrainingError: a term is not finite, on all ranks alike. Leaving: the driver leaves; the task was kept.
        """
        sums = torch.stack([losses.task.double(), torch.tensor(float(self.leaving())).to(losses.task)])
        dist.all_reduce(sums)
        loss, leaving = float(sums[0]) / int(self.split.terms[batch].sum()), bool(sums[1])
        orthogonality, modules = float(losses.orthogonality), self.bank.report()
        if not np.isfinite([loss, orthogonality, *(module.overlap for module in modules.values())]).all():
            raise self.diverged(f"the loss is {loss} at step {step}", step, batch)
        self.log.add(step, loss, orthogonality, float(losses.budget), modules)
        last, index = self.log.last, self.order.index
        self.report(Progress(index, "train", step, self.steps, loss, orthogonality, last["overlap"], last["mean_rank"]))
        if leaving:
            self.save(step)
            self.report(Saved(index, step))
            raise Leaving

    def collect_moments(self) -> dict[str, Tensor]:
        """What each adapter reads over the task, see `second_moments`."""
        with torch.no_grad():
            use(self.modules, self.bank.pairs(self.bank(self.history.dtype)))  # as they are after the last update
        at_once = max(1, self.config.batch_size // self.config.gradient_accumulation_steps)  # as is known to fit
        return second_moments(self.backbone, self.modules, self.split, at_once)

    def save(self, step: int) -> None:
        """Replaces the stored checkpoint by one of this moment."""
        log = {f"{LOG}{key}": column for key, column in self.log.tensors().items()}
        checkpoint = Checkpoint(step, {**capture(self.engine), **log})
        if dist.get_rank() == 0:
            self.store.put(self.order.checkpoint, checkpoint.dump(self.order.identity))

    def resume(self) -> int:
        """Goes to the stored checkpoint of this task where there is one; returns the steps done."""
        data = self.stored()
        checkpoint = Checkpoint.parse(data, self.order.identity) if data else None
        if checkpoint is None:
            return 0
        restore(self.engine, checkpoint, self.empty_step)
        self.log = TrainingLog.of(
            {key.removeprefix(LOG): value for key, value in checkpoint.tensors.items() if key.startswith(LOG)}
        )
        self.report(Progress(self.order.index, "resume", checkpoint.step, self.steps))
        return checkpoint.step

    def stored(self) -> bytes:
        """The stored checkpoint as rank 0 reads it, empty where there is none; the same on all ranks."""
        data = b""
        if dist.get_rank() == 0:
            try:
                data = self.store.get(self.order.checkpoint)
            except KeyAbsentError:
                data = b""
        size = torch.tensor([len(data)], device=self.backbone.device)
        dist.broadcast(size, src=0)
        content = torch.frombuffer(bytearray(data or bytes(int(size))), dtype=torch.uint8) if int(size) else size[:0]
        content = content.to(self.backbone.device)
        dist.broadcast(content, src=0)
        return content.cpu().numpy().tobytes()

    def empty_step(self) -> None:
        """An update with zero gradients."""
        for _ in range(self.config.gradient_accumulation_steps):
            total = self.engine(self.split, np.arange(1), 0.0)[0]
            self.engine.backward(total * 0.0)
            self.engine.step()

    def diverged(self, what: str, step: int, batch: np.ndarray | None = None) -> TrainingError:
        """The error for training that left the finite numbers, with what led there as evidence."""
        error = TrainingError(
            f"task {self.name!r}: {what}; what was committed stands. Give the run another `name` and lower "
            f"train.learning_rate (now {self.config.learning_rate}) or train.max_grad_norm"
        )
        scalars = ("step", "loss", "orthogonality", "overlap", "mean_rank")
        rows = [] if batch is None else [int(row) for row in batch]
        before = [{key: row[key] for key in scalars} for row in self.log.rows[-EVIDENCE_ROWS:]]
        error.evidence = {"task": self.name, "step": step, "training_rows": rows, "log_before": before}
        return error


def seed_step(seed: int, step: int) -> None:
    """Makes the random numbers of a step (dropout) a function of task seed, step and rank alone: none are kept."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, dist.get_rank()]).generate_state(1)[0]))
