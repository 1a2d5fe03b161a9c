"""The code that runs on every worker: loads the frozen base once, then carries out orders until the stream ends."""

import gc
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from cluster.errors import ConfigError, IntegrityError, OrthoplexError, TrainingError
from cluster.storage import FileRecord, open_store
from trainers.failures import during, final, judge
from trainers.folders import located, scratch
from trainers.identity import other_base
from trainers.imports import quick_imports
from trainers.messages import Failed, Job, Lost, Order, Started, TaskDone
from trainers.methods.base import Artifact
from trainers.methods.registry import method_for
from trainers.models.base import Backbone
from trainers.models.checks import checkpoint_activations
from trainers.models.loading import compile_blocks, load_backbone
from trainers.models.packed import own
from trainers.models.quantise import parameters_of
from trainers.models.tokens import tokenize_task
from trainers.objectives.known import OBJECTIVES
from trainers.training.mixing import counts, own_and_mixed, title
from trainers.training.stage import Leaving, Report, TaskTraining, Trained
from trainers.workers.group import SETTLE_S
from trainers.workers.scoring import Scoring
from trainers.workers.storing import decided, store_scored, store_task
from trainers.workers.worker_log import WorkerLog

Fetch = Callable[[Sequence[Any]], list[Any]]


def train_loop(config: dict[str, Any]) -> None:
    """Entry point for `TorchTrainer`: `config` is {"feed": handle of the feed actor, "folder": folder for files}."""
    import ray.train.torch

    with scratch(config["folder"]) as start:
        work(config["feed"], ray.train.torch.get_device(), start)


def work(feed: Any, device: torch.device, start: Path) -> None:
    """Carries out the feed's orders until the stream ends. Needs a process group. Ray started the process in `start`.

    An error that all ranks meet is reported, and the worker waits for the next order. Any other error ends the worker.
    If a retry does not mend it, or needs less memory, the feed is told first.
    """
    line = Line(feed)
    try:
        line.work(device, start)
    except Leaving:
        return
    except Exception as error:
        line.tell(error)
        raise


class Line:
    """One rank's connection to the feed, and its log file. `number` is that of the current order, 0 before the first;
    `task` names its task in messages."""

    def __init__(self, feed: Any) -> None:
        self.feed, self.number, self.task = feed, 0, ""
        self.log = WorkerLog("", [], dist.get_rank())

    def work(self, device: torch.device, start: Path) -> None:
        """See the function `work`."""
        began = time.time()
        with during("import"), quick_imports():
            for module in ("deepspeed", "transformers.modeling_utils"):  # takes seconds, and needs no job
                import_module(module)
        job = self.job()
        worker = Worker(job, device, self.report, self.leaving, fetch, start=start)
        gc.collect()
        gc.freeze()  # what is loaded stays, so that a collection after each task takes milliseconds
        self.report(Started(dist.get_world_size(), began, worker.seconds))
        self.log.tasks = worker.names
        while (order := self.next_order(worker.device)) is not None:
            try:
                self.report(self.done(worker, order, order.job or job))
            except OrthoplexError as error:
                if not self.met_by_all(error):
                    raise
                self.report(failed(error, "stay"))

    def job(self) -> Job:
        """Waits for the worker's job."""
        import ray

        job: Job = ray.get(self.feed.begun.remote())
        self.log.run = job.run
        return job

    def done(self, worker: "Worker", order: Order, job: Job) -> TaskDone:
        """Has the worker carry out an order of a job."""
        self.log.run, self.task = job.run, f"task {order.index + 1}"
        with during("take"):
            worker.take(job)
        self.log.tasks, self.task = worker.names, f"task {title(worker.names, order.index, job.train)!r}"
        with during("catch up"):
            worker.catch_up(order)
        return worker.run(order)

    def tell(self, error: Exception) -> None:
        """Tells the feed why this worker ends, unless it only knows that another worker is gone.

        In that case it waits: the other may be about to say why, and the first worker that ends ends them all.
        """
        verdict = judge(error)
        workers: Literal["restart", "gone"] = "restart" if self.number else "gone"
        if isinstance(error, OrthoplexError):
            self.insist(failed(error, workers))
        elif verdict == "final":
            self.insist(final(error, self.task, dist.get_rank(), workers))
        elif verdict == "out_of_memory":
            self.insist(Lost("out_of_memory", (str(error) or type(error).__name__).splitlines()[0]))
        else:
            time.sleep(SETTLE_S)

    def report(self, event: Any) -> None:
        """Writes an event about the current order to the log, and on rank 0 also tells the feed."""
        if dist.get_rank() == 0:
            self.insist(event)
        else:
            self.log.write(event)

    def insist(self, event: Any) -> None:
        """Writes an event to the log and tells the feed, on any rank."""
        import ray

        self.log.write(event)
        ray.get(self.feed.report.remote(event, self.number or None))

    def leaving(self) -> bool:
        """Whether the driver asks to leave, on rank 0; False on other ranks."""
        import ray

        return dist.get_rank() == 0 and bool(ray.get(self.feed.is_leaving.remote()))

    def next_order(self, device: torch.device) -> Order | None:
        """The next order, the same on all ranks even if it is replaced while they ask; None if the stream has ended."""
        import ray

        after = self.number
        while True:
            number, order = ray.get(self.feed.next_order.remote(after))
            bounds = torch.tensor([number, -number], device=device)
            dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
            newest, oldest = int(bounds[0]), -int(bounds[1])
            if newest == oldest:
                self.number = number
                return order
            after = newest - 1

    def met_by_all(self, error: OrthoplexError) -> bool:
        """Whether every rank has met the same error, so that no rank waits for another within a step."""
        import ray

        return bool(ray.get(self.feed.met.remote(self.number, str(error), dist.get_world_size())))


def failed(error: OrthoplexError, workers: Literal["stay", "restart", "gone"]) -> Failed:
    """The event for an error, and what becomes of the workers."""
    return Failed(str(error), error.exit_code, error.evidence, workers)


def fetch(references: Sequence[Any]) -> list[Any]:
    """The values of references into Ray's object store.

    Raises:
        OrthoplexError: a task that makes one of the values raised it.
        TrainingError: the process that owns one of the values is gone.
    """
    import ray

    try:
        found: list[Any] = ray.get(list(references))
    except ray.exceptions.OwnerDiedError:
        raise TrainingError("the process that gave the order is gone, and the history it holds with it") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OrthoplexError):
            raise error.cause from None
        raise
    return found


class Worker:
    """One rank: frozen base, tokenised tasks and history, kept for all orders, of one run or of many."""

    def __init__(
        self,
        job: Job,
        device: torch.device,
        report: Report,
        leaving: Callable[[], bool] = lambda: False,
        fetch: Fetch = list,
        *,
        start: Path | None = None,
    ) -> None:
        """Takes or loads the base onto `device`, encodes all label words with it, and tokenises tasks that are not yet.

        `report` takes the events. `leaving` says, on rank 0, whether to store a checkpoint and leave. `fetch` returns
        the values of a job's and an order's references. A relative `Job.folder` starts in `start`.
        """
        started = time.monotonic()
        self.start = start
        self.job, self.device, self.report, self.leaving, self.fetch = job, device, report, leaving, fetch
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        with during("load"):
            self.backbone = self.base()
        self.base_parameters = parameters_of(self.backbone.model)
        self.method = method_for(self.backbone.model, job.adapter, getattr(torch, job.model.dtype))
        if job.base is not None and device.type == "cpu":
            own(self.method.modules.values())
        self.held: list[tuple[str, ...]] = []
        self.forget(job)
        loaded = time.monotonic()
        self.read(job.tasks)
        if job.train.gradient_checkpointing:
            checkpoint_activations(self.backbone.model)
        if job.train.compile:
            compile_blocks(self.backbone.model)
        self.seconds = {"load": loaded - started, "tokenise": time.monotonic() - loaded}

    def base(self) -> Backbone:
        """The frozen base: in shards under ZeRO 3, else from the object store if the job has it there."""
        partitioned = self.job.deepspeed.zero_stage == 3
        if partitioned or self.job.base is None:
            model = located(self.job.model, self.job.folder, self.start)
            return load_backbone(model, self.device, partitioned=partitioned)
        (packed,) = self.fetch([self.job.base])
        made: Backbone = packed.backbone(self.device)
        return made

    def read(self, references: Sequence[Any]) -> None:
        """Sets the tasks. Their label words are encoded by the base alone, so no history may be in its weights."""
        with during("tokenise"):
            tasks = [tokenize_task(self.backbone, task) for task in self.fetch(references)]
            self.splits = [OBJECTIVES[task.objective].encode(self.backbone, task) for task in tasks]
        self.names = [task.name for task in tasks]

    @property
    def known(self) -> int:
        """Number of committed tasks that this worker holds."""
        return len(self.held)

    def take(self, job: Job) -> None:
        """Serves `job` from now on. If it differs from the job before, the base is put back bit for bit and the history
        is forgotten, so an earlier job has no influence on a later one.

        Raises:
            ConfigError: a setting of `fixed` differs from the one that the workers were started with, or its label
                words are not fit for the model. The job before is then still served.
        """
        if job == self.job:
            return
        had, asked = fixed(self.job), fixed(job)
        for key, value in asked.items():
            if value != had[key]:
                raise ConfigError(f"{key}: {value!r}, but these workers were started with {had[key]!r}; start others")
        if job.tasks != self.job.tasks:
            self.forget(self.job)
            self.read(job.tasks)
        self.forget(job)
        self.job = job

    def forget(self, job: Job) -> None:
        """Puts the base back, to begin the stream of `job`."""
        self.method.reset(job.adapter)
        self.held = []

    def catch_up(self, order: Order) -> None:
        """Adds the committed tasks that this worker does not hold.

        If the tasks that it or another rank holds are not those that were committed, they are forgotten first. That
        happens after a late report, or if a driver died before its commit.

        Raises:
            IntegrityError: bytes have another digest than their commit says, or do not fit the model, or the tasks were
                trained on another base.
        """
        self.check_base(order)
        if not self.agree(self.held == list(order.digests[: self.known])):
            self.forget(self.job)
        first = self.known
        files, digests = self.fetch(order.history[first:]), order.digests[first:]
        for number, (task, expected) in enumerate(zip(files, digests, strict=True), start=first + 1):
            if tuple(map(sha256, task)) != expected:
                raise IntegrityError(f"history: the files of task {number} are not those of its commit")
        names = self.job.adapter.files
        self.method.extend([Artifact(dict(zip(names, task, strict=True))) for task in files])
        self.held += digests

    def check_base(self, order: Order) -> None:
        """Raises IntegrityError if the base is not that of the order's history."""
        if faults := order.base.differences(self.backbone.identity):
            raise IntegrityError(other_base(self.job.model.name, faults))

    def agree(self, mine: bool) -> bool:
        """Whether `mine` is true on all ranks. Collective."""
        least = torch.tensor(int(mine), device=self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return bool(least)

    def run(self, order: Order) -> TaskDone:
        """Trains one task, adds its artifact to the history, uploads its files, and scores the tasks that the order
        names with the artifact as it is stored."""
        scoring = self.scoring(order)
        zero_shot = scoring.scores("test", range(len(self.splits)), 0) if order.zero_shot else None
        learned = order.index + 1
        started, before = time.monotonic(), self.method.capacity()
        trained = self.training(order).run()
        gc.collect()  # the engine is in cycles, with its optimizer and its buffers
        with during("extract"):
            self.method.extend([trained.artifact])
        self.held.append(tuple(map(sha256, (trained.artifact.files[name] for name in self.job.adapter.files))))
        train_s, files = time.monotonic() - started, list[FileRecord]()
        prefix = f"{order.version_root}/{uuid.uuid4().hex}"  # not part of the run until it is committed
        if self.rank == 0:
            name, after = title(self.names, order.index, self.job.train), self.method.capacity()
            taken = decided(self.job, name, trained, before=before, after=after, earlier=self.known - 1)
            files += store_task(self.job.store_uri, prefix, trained, taken)
        summary, kept = trained.artifact.summary, self.method.kept()
        assert summary is not None
        started = time.monotonic()
        validation = scoring.scores("validation", order.validation, learned)
        test = scoring.scores("test", order.test, learned)
        eval_s = time.monotonic() - started
        if self.rank == 0:
            files += store_scored(self.job.store_uri, prefix, scoring)
        return TaskDone(
            index=order.index,
            prefix=prefix,
            files=files,
            base_digest=self.backbone.digest,
            tokenizer=dict(self.backbone.tokenizer_digests),
            base_config=dict(self.backbone.settings),
            budget=summary.budget,
            overlap=summary.overlap,
            occupancy=self.method.capacity(),
            angles=summary.angles,
            active_parameters=summary.active_parameters,
            validation=validation,
            test=test,
            zero_shot=zero_shot,
            cost={"train_s": train_s, "evaluate_s": eval_s, "workers": self.world_size, **self.counted(trained)},
            kept=None if kept is None else asdict(kept),
            union=scoring.union_row,
            trained_rows=counts(self.names, self.splits, order.index, self.job.train),
            functional=trained.log.last.get("functional"),
        )

    def counted(self, trained: Trained) -> dict[str, int]:
        """What the operations of training follow from, see `orchestrator.track.spending`."""
        sizes = {"base_parameters": self.base_parameters, "trained_parameters": trained.parameters}
        return {"tokens": trained.tokens, **sizes} if trained.tokens else {}

    def training(self, order: Order) -> TaskTraining:
        """The training stage of the order's task."""
        index, store = order.index, open_store(self.job.store_uri, stands=True)
        rows, mixed = own_and_mixed(self.splits, index, self.job.train)
        return TaskTraining(
            self.job, order, title(self.names, index, self.job.train), self.backbone, self.method, rows, store,
            self.report, self.leaving, mixed=mixed,
        )  # fmt: skip

    def scoring(self, order: Order) -> Scoring:
        """What scores tasks for the order."""
        tasks = list(zip(self.names, self.splits, strict=True))
        return Scoring(
            order=order, tasks=tasks, train=self.job.train, answering=self.method.answering, report=self.report
        )


def sha256(data: bytes) -> str:
    """The digest of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def fixed(job: Job) -> dict[str, Any]:
    """The settings that workers keep from their start; they must be the same in every job that the workers serve."""
    return {
        **{f"model.{key}": value for key, value in job.model},
        **{f"deepspeed.{key}": value for key, value in job.deepspeed},
        "adapter.method": job.adapter.method,
        "adapter.target_modules": job.adapter.target_modules,
        "train.compile": job.train.compile,
        "train.gradient_checkpointing": job.train.gradient_checkpointing,
    }
