"""What runs on every Ray Train worker: the frozen base once, then task after task until the feed is empty.

Shape suffixes: C classes, D model width, B rows of a micro-batch.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cluster.errors import OrthoplexError, TrainingError
from cluster.storage import open_store, upload_files
from trainers.adapters import artifact
from trainers.adapters.artifact import TaskAdapter
from trainers.adapters.history import History
from trainers.adapters.layers import OAAdapter, attach, detach, match_modules
from trainers.adapters.orthogonality import overlap
from trainers.batching import epoch_batches, equal_length_batches
from trainers.config import AdapterConfig, DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.engine import Losses, TaskModel, build_engine, train_batch
from trainers.evaluate import TokenizedSplit, evaluate, tokenize
from trainers.messages import Failed, Order, Progress, Score, TaskDone
from trainers.models import load_backbone
from trainers.training_log import TrainingLog

Report = Callable[[Any], None]


@dataclass(frozen=True)
class TaskRows:
    """One task as workers get it: label words and, for each split, texts and label indices."""

    name: str
    labels: tuple[str, ...]
    splits: dict[str, tuple[list[str], list[int]]]


@dataclass(frozen=True)
class Job:
    """Everything a worker needs that does not change between tasks. `tasks` are references to `TaskRows`."""

    model: ModelConfig
    adapter: AdapterConfig
    train: TrainConfig
    deepspeed: DeepSpeedConfig
    store_uri: str
    tasks: tuple[Any, ...]


def train_loop(config: dict[str, Any]) -> None:
    """Entry point for `TorchTrainer`: `config` is {"job": Job, "feed": handle of the feed actor}.

    Errors meant for the user are also put into the feed, since Ray Train wraps them in a traceback.
    """
    import ray
    import ray.train.torch

    feed = config["feed"]
    rank = ray.train.get_context().get_world_rank()

    def report(event: Any) -> None:
        if rank == 0:
            ray.get(feed.report.remote(event))

    try:
        worker = Worker(config["job"], ray.get(list(config["job"].tasks)), ray.train.torch.get_device(), report)
        done = -1
        while (order := ray.get(feed.next_order.remote(done))) is not None:
            worker.catch_up([artifact.parse(*files) for files in ray.get(list(order.history[worker.known :]))])
            report(worker.run(order))
            done = order.index
    except OrthoplexError as error:
        ray.get(feed.report.remote(Failed(str(error), error.exit_code)))
        raise


class Worker:
    """One rank: frozen base, tokenised tasks and history, alive for the whole stream."""

    def __init__(self, job: Job, tasks: list[TaskRows], device: torch.device, report: Report) -> None:
        """Loads the base onto `device`, embeds all label words with it and tokenises every task."""
        self.job, self.report = job, report
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.backbone = load_backbone(job.model, device)
        self.modules = match_modules(self.backbone.model, job.adapter.target_modules)
        self.history = History(self.modules)
        self.names = [task.name for task in tasks]
        self.labels = [self.backbone.embed_labels(task.labels) for task in tasks]
        self.splits = [{split: tokenize(self.backbone, *rows) for split, rows in task.splits.items()} for task in tasks]

    @property
    def known(self) -> int:
        """Committed tasks this worker holds."""
        return len(self.history.tasks)

    def catch_up(self, adapters: list[TaskAdapter]) -> None:
        """Takes over committed tasks that this worker did not train itself."""
        for adapter in adapters:
            self.history.extend(adapter)

    def run(self, order: Order) -> TaskDone:
        """Trains one task, folds it, evaluates every task as the store will give it back, and uploads the files."""
        zero_shot = self.evaluate_all(order.index, "test") if order.zero_shot else None
        with tempfile.TemporaryDirectory(prefix="orthoplex-task-", dir=".") as folder:
            started = time.monotonic()
            log = self.train(order.index)
            train_s = time.monotonic() - started
            trained = artifact.extract(log.adapters, self.job.adapter.orthogonality.energy)
            self.history.extend(trained)
            prefix, files = self.upload(order, trained, log, Path(folder))
        started = time.monotonic()
        validation, test = self.evaluate_all(order.index, "validation"), self.evaluate_all(order.index, "test")
        eval_s = time.monotonic() - started
        return TaskDone(
            index=order.index,
            prefix=prefix,
            files=files,
            base_digest=self.backbone.digest,
            budget=log.budget(),
            overlap=log.last["overlap"],
            active_parameters=trained.parameters,
            validation=validation,
            test=test,
            zero_shot=zero_shot,
            cost={"train_s": train_s, "evaluate_s": eval_s, "workers": self.world_size},
        )

    def train(self, index: int) -> TrainingLog:
        """One training stage; returns its log, which holds the adapters, taken off again."""
        train = self.job.train
        adapters = self.new_adapters(index)
        attach(self.modules, adapters)
        torch.manual_seed(train.task_seed(index) * 1_009 + self.rank)  # dropout differs between ranks
        self.backbone.model.train()
        try:
            model = TaskModel(self.backbone, adapters, self.job.adapter)
            split = self.splits[index]["train"]
            steps = train.steps(len(split.targets))
            engine = build_engine(model, train, self.job.deepspeed.zero_stage, self.world_size, steps)
            log = TrainingLog(adapters)
            for step, batch in enumerate(self.batches(split, index), start=1):
                losses = train_batch(engine, split, batch, self.labels[index], train.gradient_accumulation_steps)
                if step % train.logging_steps == 0 or step == steps:
                    self.log_step(log, index, losses, len(batch), (step, steps))
            engine.destroy()
            if not all(p.isfinite().all() for adapter in adapters.values() for p in adapter.parameters()):
                raise self.diverged(index, f"the adapter is not finite after step {steps}")
            self.backbone.model.eval()
            if self.job.adapter.orthogonality.projects_input:
                self.collect_moments(adapters, split)
        finally:
            self.backbone.model.eval()
            detach(self.modules)
        return log

    def new_adapters(self, index: int) -> dict[str, OAAdapter]:
        """Adapters for task `index`: drawn on the CPU, so all ranks and devices start from the same values."""
        generator = torch.Generator().manual_seed(self.job.train.task_seed(index))
        written, read = self.history.written, self.history.read
        return {
            name: OAAdapter(module.out_features, self.job.adapter, generator, written[name], read[name])
            for name, module in self.modules.items()
        }

    @torch.no_grad()
    def collect_moments(self, adapters: dict[str, OAAdapter], split: TokenizedSplit) -> None:
        """Sums h hᵀ of what each adapter reads over a task's rows and all ranks, in batches that need no padding."""
        for adapter in adapters.values():
            adapter.moment_DD = torch.zeros(adapter.W1.shape[1], adapter.W1.shape[1], device=adapter.W1.device)
        for rows in equal_length_batches(split.lengths, self.job.train.eval_batch_size)[self.rank :: self.world_size]:
            self.backbone.embed([split.token_ids[i] for i in rows])
        for adapter in adapters.values():
            dist.all_reduce(adapter.moment_DD)

    def batches(self, split: TokenizedSplit, index: int) -> Iterator[np.ndarray]:
        """Effective batches of all epochs, as row indices."""
        train = self.job.train
        for epoch in range(train.epochs):
            yield from epoch_batches(split.lengths, train.batch_size, train.task_seed(index), epoch)

    def log_step(self, log: TrainingLog, index: int, losses: Losses, rows: int, at: tuple[int, int]) -> None:
        """Records loss over all ranks, penalty, overlap and budget, `at` = (step, of how many).

        Raises:
            TrainingError: a term is not finite, on all ranks alike.
        """
        step, steps = at
        total = losses.task_rows.clone()
        dist.all_reduce(total)
        loss, orthogonality = float(total) / rows, float(losses.orthogonality)
        overlaps = [
            float(overlap(a.output_matrix(), a.gamma(), a.written)) for a in log.adapters.values() if a.written.shape[1]
        ]
        if not np.isfinite([loss, orthogonality, *overlaps]).all():
            raise self.diverged(index, f"the loss is {loss} at step {step}")
        log.add(step, loss, orthogonality, float(losses.budget), float(np.mean(overlaps or [0.0])))
        last = log.last
        self.report(Progress(index, "train", step, steps, loss, orthogonality, last["overlap"], last["mean_rank"]))

    def diverged(self, index: int, what: str) -> TrainingError:
        """The error for training that left the finite numbers."""
        return TrainingError(
            f"task {self.names[index]!r}: {what}; what was committed stands. Give the run another `name` and lower "
            f"train.learning_rate (now {self.job.train.learning_rate}) or train.max_grad_norm"
        )

    def evaluate_all(self, index: int, split: str) -> list[Score]:
        """Scores on `split` of every task, earlier and later ones too."""
        scores = []
        for number, (splits, labels_CD) in enumerate(zip(self.splits, self.labels, strict=True), start=1):
            scores.append(evaluate(self.backbone, splits[split], labels_CD, self.job.train.eval_batch_size))
            self.report(Progress(index, f"evaluate {split}", number, len(self.splits)))
        return scores

    def upload(self, order: Order, trained: TaskAdapter, log: TrainingLog, folder: Path) -> tuple[str, list[Any]]:
        """Rank 0 writes the task's files under a prefix of its own; nothing there counts until it is committed."""
        prefix = f"{order.version_root}/{uuid.uuid4().hex}"
        if self.rank != 0:
            return prefix, []
        artifact.save(trained, folder)
        log.write(folder / "training.parquet")
        return prefix, upload_files(open_store(self.job.store_uri), prefix, folder)
