"""One training stage: trains what a method adds for a task, from its initial values or from a checkpoint to the end.

Shape suffixes: D output width of a layer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.errors import IntegrityError, KeyAbsentError, StoreError, TrainingError
from cluster.storage import Store
from trainers.config import TrainConfig
from trainers.failures import during, undone
from trainers.messages import Checkpointed, Job, Order, Progress, Said, Saved, Vouched
from trainers.methods.base import Artifact, Attached, LossMoments, Method, NotFinite, TaskContext
from trainers.models.base import Backbone
from trainers.models.capabilities import evaluating
from trainers.objectives.base import EncodedSplit
from trainers.training.checkpoint import LOG, Checkpoint, capture, is_fit, restore, shapes_of, vouched
from trainers.training.decisions import MOST_SAMPLES
from trainers.training.engine import Losses, TaskModel, build_engine, train_batch
from trainers.training.loss_moments import loss_moments
from trainers.training.mixing import Mixed
from trainers.training.second_moments import second_moments
from trainers.training.speed import Speed, gpu_bytes
from trainers.training.squared_gradients import squared_gradients
from trainers.training.training_log import TrainingLog
from trainers.zero import release, size_of

Report = Callable[[Any], None]
EVIDENCE_ROWS = 10
BETA_1 = 0.9  # of AdamW, as torch has it
PIECE_BYTES = 2**26  # at once on a device, of what rank 0 shares


class Leaving(Exception):
    """The driver is leaving, and a checkpoint of the task in training is stored. Raised on all ranks."""


@dataclass(frozen=True)
class Trained:
    """The result of a training stage: the task as it is stored, the training log, the tokens of all steps' rows
    (without padding and label words), how many parameters were trained, and the course of its ranks, see
    `TaskTraining.course`."""

    artifact: Artifact
    log: TrainingLog
    tokens: int = 0
    parameters: int = 0
    course: TrainingLog = field(default_factory=TrainingLog)


@dataclass
class TaskTraining:
    """The training stage of one task on one rank, which is also the method's `Reader`. Its methods are collective.

    `split` has the task's own rows. `mixed` are rows of other tasks that are trained on, too; the method reads the
    task's own alone. If the method chooses ranks, `course` has what it reports between two rows of the log, if these
    are fewer than MOST_SAMPLES; of the steps before a resume it has none.
    """

    job: Job
    order: Order
    name: str
    backbone: Backbone
    method: Method
    split: EncodedSplit
    store: Store
    report: Report
    leaving: Callable[[], bool] = lambda: False
    log: TrainingLog = field(default_factory=TrainingLog)
    course: TrainingLog = field(default_factory=TrainingLog)
    mixed: Sequence[Mixed] = ()

    @cached_property
    def config(self) -> TrainConfig:
        """The `train` section with the task's own values, and the number of micro-batches that the order gives."""
        own = self.job.train.with_own(self.order.training)
        return own.model_copy(update={"gradient_accumulation_steps": self.order.accumulation})

    def run(self) -> Trained:
        """Trains to the end.

        Raises:
            TrainingError: a loss or the adapter is not finite, or the method finds a fault; on all ranks.
            Leaving: the driver leaves, and a checkpoint is stored; on all ranks.
        """
        tokens = 0
        with self.engaged():
            parameters = sum(size_of(each) for group in self.attached.groups() for each in group.parameters)
            with during("resume"):
                done = self.resume()
            for step, batch in enumerate(self.batches(), start=1):
                tokens += int(self.rows.lengths[batch].sum())
                if step > done:
                    with during(f"train step {step}"):
                        self.step(step, batch)
            self.backbone.model.eval()
            try:
                with during("extract"):
                    artifact = self.agreed(self.attached.finish(self))
            except NotFinite:
                raise self.diverged(f"the adapter is not finite after step {self.steps}", self.steps) from None
        return Trained(artifact, self.log, tokens, parameters, self.course)

    @contextmanager
    def engaged(self) -> Iterator[None]:
        """The engine exists within the block; afterwards the model is as it was before.

        Ranks build the engine together, before anything else. So a rank that fails never builds an engine on its way
        out, while the other ranks wait for it in another collective call.
        """
        self.backbone.model.train()
        with undone(self.disengage):
            with during("attach"):
                detach = self.attached.detach
            with undone(detach):
                with during("build the engine"):
                    destroy = self.engine.destroy
                with undone(destroy):
                    yield

    def disengage(self) -> None:
        """Puts the model into the state in which it is scored."""
        self.backbone.model.eval()
        release(self.backbone.model)

    @cached_property
    def rows(self) -> EncodedSplit:
        """The rows that are trained on."""
        return self.split.with_rows(self.mixed) if self.mixed else self.split

    @cached_property
    def speed(self) -> Speed:
        """Counts tokens from the first step of this start on."""
        return Speed()

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole task."""
        return self.config.steps(len(self.rows.terms))

    @cached_property
    def seed(self) -> int:
        """The seed of initial values, row order and random numbers."""
        return self.config.task_seed(self.order.index)

    @cached_property
    def attached(self) -> Attached:
        """What the method trains, on the model."""
        return self.method.begin(
            TaskContext(
                name=self.name,
                seed=self.seed,
                steps=self.steps,
                train=self.config,
                device=self.backbone.device,
                rank=dist.get_rank(),
                reader=self,
                resumed=self.checkpoint is not None,
            )
        )

    @cached_property
    def engine(self) -> Any:
        """The DeepSpeed engine over `attached`."""
        self.check_rates()
        model = TaskModel(self.backbone, self.attached)
        return build_engine(model, self.config, self.job.deepspeed.zero_stage, dist.get_world_size(), self.steps)

    def check_rates(self) -> None:
        """Raises TrainingError if float32 does not hold AdamW's first step, a rate / (1 − β1), of some parameters."""
        fastest = max(group.learning_rate for group in self.attached.groups())
        if fastest > (1 - BETA_1) * torch.finfo(torch.float32).max:
            raise self.diverged(f"a rate of {fastest:g} is beyond the numbers of float32 at step 1", 1)

    def batches(self) -> Iterator[np.ndarray]:
        """The effective batch of each step, as row indices: epoch after epoch, each in an order of its own, until all
        steps have one. They depend on rows, batch size and seed alone."""
        size, make = self.config.batch_size, self.backbone.collate.batches
        epochs = (make(self.rows.lengths, size, self.seed, epoch) for epoch in count())
        return islice(chain.from_iterable(epochs), self.steps)

    def step(self, step: int, batch: np.ndarray) -> None:
        """One update with the method's checks; then, if they are due, a row of the log and a checkpoint."""
        config = self.config
        seed_step(self.seed, step)
        self.attached.before_step(step)
        losses = train_batch(self.engine, self.rows, batch, config.gradient_accumulation_steps)
        self.attached.after_step(losses.penalties)
        self.speed.add(int(self.rows.lengths[batch].sum()))
        if step % config.logging_steps == 0 or step == self.steps:
            self.log_step(step, losses, batch)
        elif self.job.adapter.chooses and step % -(-self.steps // MOST_SAMPLES) == 0:
            self.sample(step, losses, batch)
        if config.checkpoint_steps and (step % config.checkpoint_steps == 0 or step == self.steps):
            self.save(step)

    def log_step(self, step: int, losses: Losses, batch: np.ndarray) -> None:
        """Records the loss over all ranks, the penalties, and what the method reports.

        Raises:
            TrainingError: a term is not finite; on all ranks alike.
            Leaving: the driver leaves, and a checkpoint is stored; on all ranks.
        """
        sums = torch.stack([losses.task.double(), torch.tensor(float(self.leaving())).to(losses.task)])
        dist.all_reduce(sums)
        loss, leaving = float(sums[0]) / int(self.rows.terms[batch].sum()), bool(sums[1])
        penalties = {name: float(value) for name, value in losses.penalties.items()}
        report = self.attached.report()
        figures = [value for value in report.values() if not isinstance(value, list)]
        if not np.isfinite([loss, *penalties.values(), *figures]).all():
            raise self.diverged(f"the loss is {loss} at step {step}", step, batch)
        self.log.add(step, loss, penalties, report)
        measures = map(self.log.measure, ("loss", "orthogonality", "overlap", "mean_rank", "functional"))
        pace = {"tokens_per_s": self.speed.read(), "gpu_bytes": gpu_bytes(self.backbone.device)}
        self.report(Progress(self.order.index, "train", step, self.steps, *measures, **pace))
        if leaving:
            self.save(step)
            self.report(Saved(self.order.index, step))
            raise Leaving

    def sample(self, step: int, losses: Losses, batch: np.ndarray) -> None:
        """Adds the loss over all ranks and what the method reports to the course. Collective."""
        total = losses.task.double()
        dist.all_reduce(total)
        self.course.add(step, float(total) / int(self.rows.terms[batch].sum()), {}, self.attached.report())

    def second_moments(self, modules: Mapping[str, nn.Module], *, inputs: bool = False) -> dict[str, Tensor]:
        """Second moments of what these layers give or read over the task, see `trainers.training.second_moments`."""
        at_once = max(1, self.config.batch_size // self.config.gradient_accumulation_steps)  # as is known to fit
        with during("moments"), evaluating(self.backbone.model):
            found = second_moments(self.backbone, modules, self.split, at_once, inputs=inputs)
        self.check_moments(found.values())
        return found

    def loss_moments(self, modules: Mapping[str, nn.Module]) -> LossMoments:
        """Second moments of what adapters read and of the loss's gradient, see `trainers.training.loss_moments`."""
        train = self.config
        at_once = train.batch_size // train.gradient_accumulation_steps
        if train.gradient_checkpointing:
            at_once = 1  # a row per rank: without dropout, all activations are kept
        with during("moments"), evaluating(self.backbone.model):
            found = loss_moments(self.backbone, modules, self.split, at_once, self.seed)
        release(self.backbone.model)
        self.check_moments(chain.from_iterable(found.values()))
        return found

    def check_moments(self, moments: Iterable[Tensor]) -> None:
        """Raises TrainingError if a moment is not finite: on all ranks, over which moments are summed."""
        if not all(bool(moment.isfinite().all()) for moment in moments):
            step = self.log.last["step"] if self.log.rows else 0
            raise self.diverged(f"what its layers give on its rows is not finite after step {step}", step)

    def squared_gradients(self, values: Mapping[str, Tensor], most: int | None) -> dict[str, Tensor]:
        """Squared gradients of single rows' losses, see `trainers.training.squared_gradients`."""
        with during("squared gradients"):
            return squared_gradients(values, self.split, most)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for training to resume from a checkpoint."""
        return {**self.order.identity, "base": asdict(self.backbone.identity)}

    def save(self, step: int) -> None:
        """Replaces the stored checkpoint by one of the current state."""
        log = {f"{LOG}{key}": column for key, column in self.log.tensors().items()}
        checkpoint = Checkpoint(step, {**capture(self.engine), **log})
        if dist.get_rank() == 0:
            data = checkpoint.dump(self.identity)
            self.store.put(self.order.checkpoint, data)
            self.report(Checkpointed(self.order.index, self.steps, vouched(step, data, self.identity)))

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The stored checkpoint of this task, None if there is none that is fit to be resumed from."""
        with during("resume"):
            data = self.stored()
            with self.naming_checkpoint():
                found = Checkpoint.parse(data, self.identity) if data else None
                return found and self.fit(found, vouched(found.step, data, self.identity))

    def fit(self, found: Checkpoint, told: Vouched) -> Checkpoint | None:
        """The checkpoint, None if it may not be resumed from, see `is_fit`. What is less than certain is said."""
        its = f"note: task {self.name!r}: its checkpoint of step {found.step}"
        if not is_fit(told, self.order.vouched, only=self.order.only_vouched):
            self.report(Said(f"{its} is not named in the signed log; the task is trained from its start"))
            return None
        if not found.sealed:
            self.report(Said(f"{its} is of an older Orthoplex, and has no digest by which damage could be told"))
        return found

    @contextmanager
    def naming_checkpoint(self) -> Iterator[None]:
        """An IntegrityError in the block says where the checkpoint is."""
        try:
            yield
        except IntegrityError as error:
            raise IntegrityError(f"store {self.store.uri}: {self.order.checkpoint}: {error}") from None

    def resume(self) -> int:
        """Restores the stored checkpoint of this task, if there is one; returns the steps done."""
        checkpoint = self.checkpoint
        if checkpoint is None:
            return 0
        del self.checkpoint  # its tensors are in the engine from here on
        with self.naming_checkpoint():
            checkpoint.check(shapes_of(self.engine), self.steps)
            self.log = TrainingLog.of(checkpoint.log)
        restore(self.engine, checkpoint, self.empty_step)
        self.attached.before_step(checkpoint.step)
        self.report(Progress(self.order.index, "resume", checkpoint.step, self.steps))
        return checkpoint.step

    def stored(self) -> bytes:
        """The stored checkpoint as rank 0 reads it, empty if there is none; the same on all ranks.

        Raises:
            StoreError: rank 0 cannot read it; on all ranks, with its message.
        """
        data, problem = b"", ""
        if dist.get_rank() == 0:
            try:
                data = self.store.get(self.order.checkpoint)
            except KeyAbsentError:
                data = b""
            except StoreError as error:
                problem = str(error)
        if problem := self.shared(problem.encode()).decode():
            raise StoreError(problem)
        return self.shared(data)

    def agreed(self, artifact: Artifact) -> Artifact:
        """The task with rank 0's files on all ranks. Its bases come from decompositions, which another CPU or number of
        threads may round otherwise; so all ranks go on with the bytes that are stored."""
        if dist.get_world_size() == 1:
            return artifact
        return replace(artifact, files={name: self.shared(data) for name, data in artifact.files.items()})

    def shared(self, data: bytes) -> bytes:
        """Rank 0's `data`, on all ranks."""
        size = torch.tensor([len(data)], device=self.backbone.device)
        dist.broadcast(size, src=0)
        mine = data if dist.get_rank() == 0 else bytes(int(size))
        found = bytearray()
        for start in range(0, int(size), PIECE_BYTES):
            piece = torch.frombuffer(bytearray(mine[start : start + PIECE_BYTES]), dtype=torch.uint8)
            piece = piece.to(self.backbone.device)
            dist.broadcast(piece, src=0)
            found += piece.cpu().numpy().tobytes()
        return bytes(found)

    def empty_step(self) -> None:
        """An update with zero gradients."""
        for _ in range(self.config.gradient_accumulation_steps):
            total = self.engine(self.rows, np.arange(1), 0.0)[0]
            self.engine.backward(total * 0.0)
            self.engine.step()

    def diverged(self, what: str, step: int, batch: np.ndarray | None = None) -> TrainingError:
        """The error for training that is not finite any more, with the last rows of the log as evidence."""
        section = "its training" if self.order.training and self.order.training.learning_rate else "train"
        error = TrainingError(
            f"task {self.name!r}: {what}; what was committed stands. Give the run another `name` and lower "
            f"{section}.learning_rate (now {self.config.learning_rate}) or train.max_grad_norm"
        )
        rows = [] if batch is None else [int(row) for row in batch]
        before = self.log.before(EVIDENCE_ROWS)
        error.evidence = {"task": self.name, "step": step, "training_rows": rows, "log_before": before}
        return error


def seed_step(seed: int, step: int) -> None:
    """Makes the random numbers of a step (dropout) depend on task seed, step and rank alone, so no state is kept."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, dist.get_rank()]).generate_state(1)[0]))
