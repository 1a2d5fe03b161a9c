"""One worker serves several jobs after another, under ZeRO 2 and 3; run as one of two processes by test_worker.py.

Usage: python -m tests.support.jobs_pair FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. Rank 0 writes
FOLDER/results.json: a list of sha256 (adapter, bases) for what each worker trained, and what else was seen.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.errors import ConfigError, TrainingError
from cluster.storage import open_store
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.data.prompts import Prompt
from trainers.messages import Job, Order, TaskRows
from trainers.method_config import AdapterConfig
from trainers.methods.oa.files import ADAPTER_FILE, BASES_FILE
from trainers.models.loading import load_backbone, load_reader, weights_digest
from trainers.models.tokens import tokenize_task
from trainers.workers.pool import packed
from trainers.workers.worker import Worker

Digests = list[tuple[str, str]]
MODEL = ModelConfig(max_length=16)
WILD = {"learning_rate": 1e30, "budget_learning_rate_factor": 1e-33}  # W grows beyond float32, the gates stay open


def rows(name: str, words: tuple[str, ...]) -> TaskRows:
    """Texts in which a word tells the label."""
    texts = [f"{name} {words[i % len(words)]} sample {'word ' * (i % 4)}{i}" for i in range(24)]
    found = (texts, [i % len(words) for i in range(24)])
    return TaskRows(name, words, dict.fromkeys(("train", "validation", "test"), found), Prompt())


TASKS = (rows("first", ("red", "green")), rows("second", ("cold", "mild", "hot")))


def job(run: str, store: str, stage: int, adapter: dict[str, Any], **train: Any) -> Job:
    Path(store).mkdir(parents=True, exist_ok=True)  # as a driver leaves it to workers
    settings = {"target_modules": ["output.dense"], "max_rank": 4, "threshold": 0.9, **adapter}
    optimisation = {"epochs": 2, "batch_size": 8, "warmup_steps": 2, "learning_rate": 5e-3, "logging_steps": 2, **train}
    return Job(
        run, MODEL, AdapterConfig.model_validate(settings), TrainConfig.model_validate(optimisation),
        DeepSpeedConfig.model_validate({"zero_stage": stage}), store, TASKS,
    )  # fmt: skip


@dataclass
class Stream:
    """A job's tasks as they were committed: their files, and the digests of these."""

    job: Job
    files: list[tuple[bytes, bytes]] = field(default_factory=list)
    digests: Digests = field(default_factory=list)

    def order(self) -> Order:
        index = len(self.digests)
        return Order(
            index, 1, f"v/{self.job.run}", tuple(self.files), tuple(self.digests), f"c/{self.job.run}", {},
            zero_shot=False, validation=range(len(TASKS)), test=(), job=self.job,
        )  # fmt: skip

    def train(self, worker: Worker, *, commit: bool = True) -> None:
        """One more task, as the train loop does it; rank 0 tells the others what it uploaded."""
        order = self.order()
        worker.take(self.job)
        worker.catch_up(order)
        done = worker.run(order)
        assert len(done.validation) == len(TASKS) and done.test == []
        said = [(done.prefix, {record.path: record.sha256 for record in done.files})]
        dist.broadcast_object_list(said, src=0)
        prefix, sha256 = said[0]
        if commit:
            store = open_store(self.job.store_uri)
            adapter, bases = (store.get(f"{prefix}/{name}") for name in (ADAPTER_FILE, BASES_FILE))
            self.files.append((adapter, bases))
            self.digests.append((sha256[ADAPTER_FILE], sha256[BASES_FILE]))


def worker_of(given: Job) -> Worker:
    return Worker(given, torch.device("cpu"), lambda _: None)


def serve(stage: int, store: str) -> dict[str, Any]:
    """What a fresh worker makes of each job (ZeRO 3: of the first), and what one that serves them in turn does."""
    both = {
        "orthogonality": {"side": "both", "energy": 0.6}, "functional": {"weight": 1.0}, "initial": "task",
        "train_down": False,
    }  # fmt: skip
    plain = job("t/plain", store, stage, {})
    other = job("t/other", store, stage, {**both, "max_rank": 6, "history": "concatenated"}, learning_rate=2e-2, seed=3)
    held = {
        "base": packed(MODEL) if stage != 3 else None,
        "tasks": tuple(map(partial(tokenize_task, load_reader(MODEL)), TASKS)),
    }
    shared = {name: replace(each, **held) for name, each in (("plain", plain), ("other", other))}
    fresh = {}
    for name, given in {"plain": plain, **({"other": other} if stage == 2 else {})}.items():
        worker, stream = worker_of(given), Stream(given)
        for _ in TASKS:
            stream.train(worker)
        fresh[name] = stream.digests
    worker = worker_of(shared["plain"])
    streams = {name: Stream(given) for name, given in shared.items()}
    wild = Stream(replace(shared["plain"], run="t/wild", train=plain.train.model_copy(update=WILD)))
    streams["plain"].train(worker, commit=False)  # its driver died before the commit
    streams["plain"].train(worker)
    streams["other"].train(worker)
    seen = refused(worker, wild, replace(other, deepspeed=DeepSpeedConfig(zero_stage=1)))
    streams["other"].train(worker)
    streams["plain"].train(worker)
    seen["held"] = kept_without_replay(worker, streams["plain"])
    worker.take(wild.job)  # back to the base
    seen["base"] = weights_digest(worker.backbone.model) == load_backbone(MODEL).digest == worker.backbone.digest
    return {"fresh": fresh, "served": {name: stream.digests for name, stream in streams.items()}, **seen}


def refused(worker: Worker, wild: Stream, unfit: Job) -> dict[str, Any]:
    """The messages of a task that diverges and of a job for other workers."""
    try:
        wild.train(worker)
        diverged = ""
    except TrainingError as error:
        diverged = str(error)
    try:
        worker.take(unfit)
        said = ""
    except ConfigError as error:
        said = str(error)
    return {"diverged": diverged, "unfit": said}


def kept_without_replay(worker: Worker, stream: Stream) -> list[int]:
    """Tasks that are read again for a further order of the same job, and if the first one is another on one rank only,
    which is not rank 0."""
    asked: list[int] = []
    worker.fetch = lambda references: asked.append(len(references)) or list(references)  # type: ignore[func-returns-value]
    order = Order(2, 1, "", tuple(stream.files), tuple(stream.digests), "", {}, zero_shot=False, validation=(), test=())
    worker.take(stream.job)
    worker.catch_up(order)
    if worker.rank == 1:
        worker.held[0] = ("another", "task")
    worker.catch_up(order)
    return asked


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    results = {str(stage): serve(stage, str(folder / f"store{stage}")) for stage in (2, 3)}
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
