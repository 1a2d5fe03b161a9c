"""Workers without Ray, for a real controller: tasks are done at once, with small real files in the store."""

import hashlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.resources import ClusterConfig
from cluster.storage import open_store, upload_files
from orchestrator.config.run import RunConfig, parse_config
from orchestrator.run.controller import Controller
from orchestrator.run.evaluation import Scored, scored
from orchestrator.track.events import RowCounts, TaskDescription
from orchestrator.track.state import RunState
from trainers.data.answers import ANSWERS, KeptAnswer, write_answers
from trainers.data.row_scores import ROWS as ROWS_FILE
from trainers.data.row_scores import RowScores, write_row_scores
from trainers.messages import (
    NOT_SCORED,
    Checkpointed,
    Job,
    Order,
    Progress,
    Score,
    Started,
    TaskDone,
    Vouched,
    Watched,
)
from trainers.training.decisions import DECISIONS, Facts, write_decisions

MODULES = ("layer.0.dense", "layer.1.dense")
ROWS = {"train": 40, "validation": 10, "test": 20}
BASE = "b" * 64
WIDTH, RANK, STEPS = 4, 1, 6
BUDGET: dict[str, dict[str, float]] = {name: {"rank": RANK, "max_rank": 2, "tau": 0.5} for name in MODULES}
OCCUPANCY: dict[str, dict[str, float]] = {
    name: {"written": 0.25, "read": 0.0, "free": 3, "dropped": 0.0} for name in MODULES
}


def run_config(store: Path, tasks: Sequence[str] = ("a", "b"), **sections: Any) -> RunConfig:
    """A valid configuration whose tasks have these names; a section `resources` is by task."""
    resources = sections.pop("resources", {})
    described = [
        {"name": name, "source": "docstrings", "task": "library", "resources": resources.get(name, {})}
        for name in tasks
    ]
    content = {"name": "stream", "adapter": {"target_modules": ["dense"]}, "store": str(store), **sections}
    return parse_config({**content, "tasks": described}, "test")


class Killed(BaseException):
    """The driver's process ends here, as far as its log can tell."""


@dataclass
class FakeWorkers:
    """See `orchestrator.run.workers.Workers`; also the group that it hands out.

    `raises` holds what is raised, instead of a task being done, by task: exceptions, raised one at a time in turn.
    `accuracy` is the fraction of rows that a task is answered right, by task, on every split. `nll` holds, by task that
    is judged by its loss, the nll per token before the first task and after each. `data` are the fingerprints of tasks
    that differ from the rest; `base`, `tokenizer` and `base_config` tell the base. `during` is
    called in the middle of each task, with its order. `says` gives the answer to a row of a task and its metrics, by
    the task's name, the row, and how many tasks were learned. `trained_rows` is told of each task, `checkpoints` are
    stored while a task is in training. With `decides`, what was decided per module is kept. `calls` names every call in
    order, `orders` and `jobs` what was asked for, and `prefixes` where files were put.
    """

    config: RunConfig
    raises: dict[int, list[BaseException]] = field(default_factory=dict)
    accuracy: Mapping[int, float] = field(default_factory=dict)
    nll: Mapping[int, Sequence[float]] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    base: str = BASE
    tokenizer: Mapping[str, str] = field(default_factory=dict)
    base_config: Mapping[str, Any] = field(default_factory=dict)
    during: Callable[[Order], None] | None = None
    says: Callable[[str, int, int], tuple[str, dict[str, float]]] | None = None
    calls: list[str] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    interrupted: BaseException | None = None
    most_rows: int | None = None
    trained_rows: Mapping[str, int] = field(default_factory=dict)
    checkpoints: Mapping[int, Vouched] = field(default_factory=dict)
    decides: bool = False

    def check(self) -> None:
        self.calls.append("check")

    def describe(self) -> list[TaskDescription]:
        self.calls.append("describe")
        return [
            TaskDescription(
                name=task.name, labels=("x", "y"), fingerprint=self.data.get(task.name, "f" * 64),
                rows=RowCounts(**ROWS), warnings=(),
            )
            for task in self.config.tasks
        ]  # fmt: skip

    @contextmanager
    def session(self) -> Iterator[Callable[[], None]]:
        self.calls.append("session")
        try:
            yield self._stop
        finally:
            self.calls.append("session left")

    def share(self, files: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return files

    @contextmanager
    def group(self, job: Job, cluster: ClusterConfig, check: Callable[[], None]) -> Iterator["FakeWorkers"]:
        self.calls.append(f"group of {cluster.num_workers}")
        self.jobs.append(job)
        self.cluster, self.judge = cluster, check
        try:
            yield self
        finally:
            self.calls.append("group left")

    def scored(self, index: int) -> Scored:
        return scored(self.config, index)

    def train(self, order: Order, on_event: Callable[[Watched | None], None]) -> TaskDone:
        """As `WorkerGroup.train`, with the events that it gives."""
        self.calls.append(f"train {order.index}")
        self.orders.append(order)
        on_event(Started(self.cluster.num_workers.max, 1e9, {"load": 0.5, "tokenise": 0.25}))
        on_event(None)
        on_event(Progress(order.index, "train", 2, STEPS, loss=0.5))
        if told := self.checkpoints.get(order.index):
            on_event(Checkpointed(order.index, STEPS, told))
        if self.during:
            self.during(order)
        self.judge()
        if waiting := self.raises.get(order.index):
            raise waiting.pop(0)
        return self._done(order)

    def _stop(self) -> None:
        if self.interrupted:
            raise self.interrupted

    def _done(self, order: Order) -> TaskDone:
        self.most_rows = order.rows
        prefix = f"{order.version_root}/{uuid.uuid4().hex}"
        self.prefixes.append(prefix)
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), order.index)
            if kept := list(self._kept(order)):
                write_answers(Path(folder) / ANSWERS, kept)
            if order.keep_rows:
                write_row_scores(Path(folder) / ROWS_FILE, list(self._rows(order)))
            if self.decides:
                write_decisions(Path(folder) / DECISIONS, self._decided(order).decisions())
            files = upload_files(open_store(self.config.store, stands=True), prefix, Path(folder))
        row = {split: self._scores(getattr(order, split), split, order.index + 1) for split in ("validation", "test")}
        return TaskDone(
            index=order.index, prefix=prefix, files=files, base_digest=self.base, tokenizer=dict(self.tokenizer),
            base_config=dict(self.base_config),
            budget=BUDGET,
            overlap=0.25,
            occupancy=OCCUPANCY,
            angles=[{"smallest": 90.0, "mean": 90.0} for _ in range(order.index)],
            active_parameters=len(MODULES) * RANK * (2 * WIDTH + 1),
            zero_shot=self._scores(range(len(self.config.tasks)), "test", 0) if order.zero_shot else None,
            cost={"train_s": 1.5, "evaluate_s": 0.5, "workers": self.cluster.num_workers.max},
            union=self._union(order), trained_rows=dict(self.trained_rows), **row,
        )  # fmt: skip

    def _decided(self, order: Order) -> Facts:
        return Facts(
            when=f"2026-01-0{order.index + 1}T00:00:00+00:00", run=f"{self.config.team}/{self.config.name}",
            task=self.config.tasks[order.index].name, settings=self.config.adapter, log=logged(), budget=BUDGET,
            before=OCCUPANCY if order.index else {}, after=OCCUPANCY, earlier=order.index,
            overlaps=dict.fromkeys(MODULES, 0.125),
        )  # fmt: skip

    def _union(self, order: Order) -> list[Score]:
        """Half as many rows are right among the labels of all tasks learned."""
        asked = [task for task in order.test if task <= order.index] if order.union else []
        found = self._scores(asked, "test", order.index + 1)
        return [replace(each, correct=int(each.correct or 0) // 2) if each.rows else each for each in found]

    def _kept(self, order: Order) -> Iterator[KeptAnswer]:
        asked = [(task, 0) for task in range(len(self.config.tasks)) if order.zero_shot]
        for task, learned in [*asked, *((task, order.index + 1) for task in order.test)] if self.says else ():
            name = self.config.tasks[task].name
            for row in range(order.keep_answers):
                answer, metrics = self.says(name, row, learned)
                yield KeptAnswer(
                    task=name, row=row, learned=learned, prompt=f"{name}, row {row}?", references=("yes", "no"),
                    answer=answer, metrics=metrics,
                )  # fmt: skip

    def _rows(self, order: Order) -> Iterator[RowScores]:
        """The rows of `_scores`: the first ones are right."""
        import numpy as np

        every = {0: {"test": range(len(self.config.tasks))}} if order.zero_shot else {}
        every[order.index + 1] = {"validation": order.validation, "test": order.test}
        for learned, splits in every.items():
            for split, tasks in splits.items():
                for task in tasks:
                    score = self._score(task, split, learned)
                    values = (np.arange(score.rows) < (score.correct or 0)).astype(float)
                    yield RowScores(
                        task=self.config.tasks[task].name, split=split, learned=learned, rows=np.arange(score.rows),
                        values=values,
                    )  # fmt: skip

    def _scores(self, tasks: Sequence[int], split: str, done: int) -> list[Score]:
        found = [NOT_SCORED] * (max(tasks, default=-1) + 1)
        for task in tasks:
            found[task] = self._score(task, split, done)
        return found

    def _score(self, task: int, split: str, done: int) -> Score:
        rows = min(ROWS[split], self.most_rows or ROWS[split])
        if task in self.nll:
            nats = self.nll[task][done]
            return Score(None, rows, {"nll": nats}, (nats - 0.25, nats + 0.25))
        return Score(round(self.accuracy.get(task, 0.5) * rows), rows)


def write_files(folder: Path, seed: int) -> None:
    """adapter.safetensors, bases.safetensors and training.parquet of a task, as workers write them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    draw = np.random.default_rng(seed)
    adapter, bases = {}, {}
    for name in MODULES:
        adapter |= {f"{name}.W1": draw.random((RANK, WIDTH), "f"), f"{name}.W2": draw.random((WIDTH, RANK), "f")}
        adapter |= {f"{name}.gamma": np.ones(RANK, "f")}
        bases |= {f"{name}.Q": draw.random((WIDTH, RANK), "f"), f"{name}.singular_values": np.ones(RANK, "f")}
    save_file(adapter, folder / "adapter.safetensors")
    save_file(bases, folder / "bases.safetensors")
    pq.write_table(pa.table(logged()), folder / "training.parquet")


def logged() -> dict[str, list[Any]]:
    """The columns of a training log."""
    columns: dict[str, list[Any]] = {"step": [2, STEPS], "loss": [0.5, 0.25], "overlap": [0.25, 0.25]}
    for name in MODULES:
        columns |= {f"rank/{name}": [2, RANK], f"tau/{name}": [0.5, 0.5], f"g/{name}": [[0.75, 0.75], [0.75, 0.25]]}
    return columns


@dataclass
class Told:
    """A reporter that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    steps: list[tuple[str, Progress]] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)
    taken_at: list[int] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.lines.append(message)

    def progress(self, task: str, progress: Progress) -> None:
        self.steps.append((task, progress))

    def taken(self, state: RunState) -> None:
        self.taken_at.append(len(state.commits))

    def committed(self, state: RunState) -> None:
        self.commits.append(len(state.commits))


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray.put` gives back what it is given, and nothing can start a Ray."""
    import ray

    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))


def finished_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """default/stream in a folder: two tasks, committed."""
    without_ray(monkeypatch)
    config = run_config(store)
    Controller(config, Told(), workers=FakeWorkers(config)).run()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


Asked = tuple[Controller, FakeWorkers]


def asked(config: RunConfig, **workers: Any) -> Asked:
    """A controller of the run as its log stands now, and its workers."""
    fake = FakeWorkers(config, **workers)
    return Controller(config, Told(), workers=fake), fake
