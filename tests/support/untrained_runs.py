"""Finished runs without training and without Ray: adapters are drawn, and one real worker in this process folds them,
stores them and scores them on real rows."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist

from cluster.resources import ClusterConfig
from orchestrator.config.run import RunConfig, parse_config
from orchestrator.run.controller import Controller
from orchestrator.run.workers import OwnWorkers
from orchestrator.track.state import RunState
from tests.support.fake_workers import Told
from tests.support.readers import KnownReader
from tests.support.tiny_models import save_tiny
from trainers.config import TrainConfig
from trainers.messages import Job, Order, TaskDone
from trainers.methods.base import TaskContext
from trainers.training.stage import Trained
from trainers.training.training_log import TrainingLog
from trainers.workers.worker import Worker

WORDS = ("red", "green", "blue"), ("cold", "mild", "hot")


@dataclass
class Drawn:
    """In the place of a training stage: parameters are drawn."""

    worker: Worker
    index: int

    def run(self) -> Trained:
        method = self.worker.method
        attached = method.begin(
            TaskContext(name="drawn", seed=self.index, steps=1, train=TrainConfig(), device=torch.device("cpu"), rank=0)
        )
        draw = torch.Generator().manual_seed(self.index)
        with torch.no_grad():
            for parameter in attached.module.parameters():
                if parameter.ndim > 2 or (parameter.ndim == 2 and min(parameter.shape) > 1):
                    parameter.add_(0.4 * torch.randn(parameter.shape, generator=draw))
        nothing = {name: torch.zeros(1, 1) for name in method.modules}
        artifact = attached.finish(KnownReader(nothing, nothing))
        attached.detach()
        log = TrainingLog()
        log.add(1, 0.5, {"orthogonality": 0.0}, {"overlap": 0.0, "mean_rank": 1.0})
        return Trained(artifact, log)


class Untrained(OwnWorkers):
    """See the head of this module."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config, lambda _: None)
        self.worker: Worker | None = None
        self.cluster = config.cluster

    @contextmanager
    def session(self) -> Iterator[Callable[[], None]]:
        yield lambda: None

    @contextmanager
    def group(self, job: Job, cluster: ClusterConfig, check: Callable[[], None]) -> Iterator[Any]:
        self.job, self.cluster = job, cluster
        yield self

    def train(self, order: Order, on_event: Callable[[Any], None]) -> TaskDone:
        on_event(None)
        if self.worker is None:
            self.worker = Worker(replace(self.job, tasks=tuple(self.tasks)), torch.device("cpu"), lambda _: None)
        worker: Any = self.worker
        worker.training = lambda order: Drawn(worker, order.index)
        worker.catch_up(order)
        done: TaskDone = worker.run(order)
        return done


@contextmanager
def process_group() -> Iterator[None]:
    """A group of this process alone, unless there is one."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def finished(content: Mapping[str, Any]) -> RunState:
    """Runs a configuration to its end."""
    import ray

    config, put = parse_config(content, "test"), ray.put
    ray.put = lambda value: value  # type: ignore[assignment]
    try:
        with process_group():
            return Controller(config, Told(), workers=Untrained(config)).run()
    finally:
        ray.put = put


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(words: Sequence[str], count: int, kind: str) -> list[dict[str, str]]:
    """Texts of unequal length in which a word tells the label."""
    return [
        {
            "text": f"{kind} {i} {words[i * 7 % len(words)]} {'word ' * (i * 5 % 9)}end",
            "label": words[i * 7 % len(words)],
        }
        for i in range(count)
    ]


def classification(folder: Path, name: str, words: Sequence[str]) -> dict[str, Any]:
    """A task of CSV files."""
    train, test = (
        write_csv(folder / f"{name}-{kind}.csv", labelled(words, count, kind))
        for kind, count in (("train", 24), ("test", 23))
    )
    return {"name": name, "source": "files", "train": str(train), "test": str(test)}


def answered(count: int, kind: str) -> list[dict[str, Any]]:
    """Prompts with answers of unequal length."""
    return [
        {"prompt": f"{kind} number {i} {'more ' * (i * 5 % 7)}is ", "completion": f"sample {'so ' * (i % 3)}{i}"}
        for i in range(count)
    ]


def spoken(count: int, kind: str) -> list[dict[str, Any]]:
    """Conversations of one or two questions."""
    rows = []
    for i in range(count):
        ask = {"role": "user", "content": f"{kind} what is {i} {'more ' * (i * 5 % 7)}"}
        first = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"}] if i % 2 else []
        rows.append({"messages": [*first, ask, {"role": "assistant", "content": f"a thing {i % 4}"}]})
    return rows


def generative(folder: Path, name: str, form: str, **keys: Any) -> dict[str, Any]:
    """A task of JSON lines."""
    make = spoken if form == "messages" else answered
    train, test = (
        write_lines(folder / f"{name}-{kind}.jsonl", make(count, kind)) for kind, count in (("train", 20), ("test", 9))
    )
    return {"name": name, "source": "files", "format": form, "train": str(train), "test": str(test), **keys}


def decoder_run_of(
    folder: Path, metrics: Sequence[str], chat: Mapping[str, Any] = MappingProxyType({}), **sections: Any
) -> RunState:
    """A decoder that chooses labels (a), answers prompts (qa, by these metrics) and turns of conversations (chat, with
    these keys)."""
    template = folder / "turns.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role }} : {{ m.content }} [SEP] {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    tasks = [
        classification(folder, "a", WORDS[0]),
        generative(folder, "qa", "prompt_completion", metrics=[*metrics]),
        generative(folder, "chat", "messages", metrics=["rouge_l"], chat_template=str(template), **chat),
    ]
    base = save_tiny("llama", folder / "base")
    model = {"name": str(base), "task_type": "CAUSAL_LM", "prompt": "text : {text} answer :"}
    adapter = {"target_modules": ["o_proj", "down_proj"], "max_rank": 4, "threshold": 0.0, "budget_weight": 0.0}
    return run_of(folder, model, tasks, adapter=adapter, **sections)


def run_of(folder: Path, model: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], **sections: Any) -> RunState:
    """team/run in folder/store, all tasks committed."""
    content = {
        "name": "run", "team": "team", "store": str(folder / "store"), "model": {"max_length": 64, **model},
        "adapter": {"target_modules": ["output.dense"], "max_rank": 4, "threshold": 0.0, "budget_weight": 0.0},
        "train": {"eval_batch_size": 4}, "deepspeed": {"zero_stage": 0}, "cluster": {"num_workers": 1},
        "evaluate": {"keep_answers": 4}, "tasks": [*tasks], **sections,
    }  # fmt: skip
    return finished(content)
