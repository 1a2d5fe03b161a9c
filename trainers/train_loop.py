"""What runs on every Ray Train worker: the frozen base once, then task after task until the feed is empty."""

import hashlib
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.errors import IntegrityError, OrthoplexError
from cluster.storage import open_store, upload_files
from trainers.adapters import artifact
from trainers.adapters.artifact import TaskAdapter
from trainers.adapters.history import History
from trainers.adapters.layers import attach, match_modules
from trainers.evaluate import evaluate, tokenize
from trainers.messages import Failed, Job, Lost, Order, Progress, Score, Started, TaskDone, TaskRows
from trainers.models import compile_blocks, load_backbone
from trainers.task_training import Leaving, Report, TaskTraining
from trainers.training_log import TrainingLog
from trainers.worker_log import WorkerLog


def train_loop(config: dict[str, Any]) -> None:
    """Entry point for `TorchTrainer`: `config` is {"job": Job, "feed": handle of the feed actor}.

    Errors meant for the user are also put into the feed, since Ray Train wraps them in a traceback.
    """
    import ray
    import ray.train.torch

    feed, job, began = config["feed"], config["job"], time.time()
    tasks = ray.get(list(job.tasks))
    log = WorkerLog(job.run, [task.name for task in tasks], ray.train.get_context().get_world_rank())

    def report(event: Any) -> None:
        log.write(event)
        if dist.get_rank() == 0:
            ray.get(feed.report.remote(event))

    def leaving() -> bool:
        return dist.get_rank() == 0 and bool(ray.get(feed.is_leaving.remote()))

    try:
        worker = Worker(job, tasks, ray.train.torch.get_device(), report, leaving)
        report(Started(dist.get_world_size(), began, worker.seconds))
        number, order = agreed_order(feed, 0, worker.device)
        while order is not None:
            worker.catch_up(ray.get(list(order.history[worker.known :])), order)
            report(worker.run(order))
            number, order = agreed_order(feed, number, worker.device)
    except Leaving:
        return
    except OrthoplexError as error:
        failed = Failed(str(error), error.exit_code, getattr(error, "evidence", {}))
        log.write(failed)
        ray.get(feed.report.remote(failed))
        raise
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            lost = Lost("out_of_memory", str(error).splitlines()[0])
            log.write(lost)
            ray.get(feed.report.remote(lost))
        raise


def agreed_order(feed: Any, after: int, device: torch.device) -> tuple[int, Order | None]:
    """The next order with a number above `after`, the same on all ranks, which may ask while it is replaced."""
    import ray

    while True:
        number, order = ray.get(feed.next_order.remote(after))
        bounds = torch.tensor([number, -number], device=device)
        dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
        newest, oldest = int(bounds[0]), -int(bounds[1])
        if newest == oldest:
            return number, order
        after = newest - 1


class Worker:
    """One rank: frozen base, tokenised tasks and history, alive for the whole stream."""

    def __init__(
        self,
        job: Job,
        tasks: list[TaskRows],
        device: torch.device,
        report: Report,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """Loads the base onto `device`, encodes all label words with it and tokenises every task.

        `report` takes events of rank 0; `leaving` says, on rank 0, whether the task in training is to be kept and left.
        """
        started = time.monotonic()
        self.job, self.device, self.report, self.leaving = job, device, report, leaving
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.backbone = load_backbone(job.model, device, partitioned=job.deepspeed.zero_stage == 3)
        self.modules = match_modules(self.backbone.model, job.adapter.target_modules)
        self.history = History(self.modules, job.adapter, getattr(torch, job.model.dtype))
        loaded = time.monotonic()
        self.names = [task.name for task in tasks]
        self.labels = [self.backbone.encode_labels(task.labels) for task in tasks]
        self.splits = [
            {split: tokenize(self.backbone, *rows, task.prompt) for split, rows in task.splits.items()}
            for task in tasks
        ]
        attach(self.modules)
        if job.train.gradient_checkpointing:
            self.backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if job.train.compile:
            compile_blocks(self.backbone.model)
        self.seconds = {"load": loaded - started, "tokenise": time.monotonic() - loaded}

    @property
    def known(self) -> int:
        """Committed tasks this worker holds."""
        return len(self.history.tasks)

    def catch_up(self, files: list[tuple[bytes, bytes]], order: Order) -> None:
        """Takes over committed tasks that this worker did not train itself: (adapter, bases) bytes of each.

        Raises:
            IntegrityError: bytes with another digest than their commit says, or that do not fit the model.
            RuntimeError: this worker holds what is not committed; another is to take its place.
        """
        if self.known > order.index:
            raise RuntimeError(f"ordered to train task {order.index + 1}, but {self.known} tasks are known here")
        first = self.known + 1
        for number, (pair, digests) in enumerate(zip(files, order.digests[self.known :], strict=True), start=first):
            if tuple(hashlib.sha256(data).hexdigest() for data in pair) != digests:
                raise IntegrityError(f"history: the files of task {number} are not those of its commit")
        self.history.extend(*(artifact.parse(*pair) for pair in files))

    def run(self, order: Order) -> TaskDone:
        """Trains one task, takes it into the history, evaluates every task as the store will give it back, and uploads
        the files."""
        zero_shot = self.evaluate_all(order.index, "test") if order.zero_shot else None
        with tempfile.TemporaryDirectory(prefix="orthoplex-task-", dir=".") as folder:
            started = time.monotonic()
            trained = self.training(order).run()
            train_s = time.monotonic() - started
            kept = artifact.extract(
                trained.states,
                self.history.written,
                self.history.read,
                trained.moments,
                self.job.adapter.orthogonality.energy,
            )
            self.history.extend(kept)
            prefix, files = self.upload(order, kept, trained.log, Path(folder))
        started = time.monotonic()
        validation, test = self.evaluate_all(order.index, "validation"), self.evaluate_all(order.index, "test")
        eval_s = time.monotonic() - started
        return TaskDone(
            index=order.index,
            prefix=prefix,
            files=files,
            base_digest=self.backbone.digest,
            budget=trained.log.budget(),
            overlap=trained.log.last["overlap"],
            occupancy=self.history.occupancy(),
            angles=self.history.angles() if self.rank == 0 else [],
            active_parameters=kept.parameters,
            validation=validation,
            test=test,
            zero_shot=zero_shot,
            cost={"train_s": train_s, "evaluate_s": eval_s, "workers": self.world_size},
        )

    def training(self, order: Order) -> TaskTraining:
        """The training stage of the task that was ordered."""
        index, store = order.index, open_store(self.job.store_uri)
        rows, labels = self.splits[index]["train"], self.labels[index]
        return TaskTraining(
            self.job, order, self.names[index], self.backbone, self.modules, self.history, rows, labels, store,
            self.report, self.leaving,
        )  # fmt: skip

    def evaluate_all(self, index: int, split: str) -> list[Score]:
        """Scores on `split` of every task, earlier and later ones too."""
        scores = []
        for number, (splits, labels) in enumerate(zip(self.splits, self.labels, strict=True), start=1):
            scores.append(evaluate(self.backbone, splits[split], labels, self.job.train.eval_batch_size))
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
