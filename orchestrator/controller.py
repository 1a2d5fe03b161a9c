"""The driver of a run: takes it from its last commit to its end. It may die at any instant and be started again.

No other driver may write to the run's log meanwhile; promotions and housekeeping may. Workers put a task's files under
a prefix of their own; the task exists from the moment its `commit` entry stands in the log.
"""

import platform
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from types import FrameType
from typing import Any, Protocol

from cluster.errors import GuardStop, IntegrityError, Interrupted, OrthoplexError, StoreError, TrainingError
from cluster.session import ray_session
from cluster.storage import open_store, probe
from orchestrator.config import RunConfig
from orchestrator.guards import decide, forecast
from orchestrator.lineage import PACKAGES, code_version, package_version, trained_against
from orchestrator.registry import Track, digest
from orchestrator.state import HARMLESS, RunState, objections, refuse, replay, without
from trainers.adapters.artifact import ADAPTER_FILE, BASES_FILE
from trainers.data import TaskData, load_task
from trainers.launch import WorkerGroup
from trainers.messages import Job, Order, Progress, Score, TaskDone, TaskRows
from trainers.models import check_model
from trainers.prompts import Prompt, prompt_for


class Reporter(Protocol):
    """Shows a run as it goes."""

    def say(self, message: str) -> None:
        """One line about what happens now."""

    def progress(self, task: str, progress: Progress) -> None:
        """A task moved on."""

    def committed(self, state: RunState) -> None:
        """A task was committed; it is the last of `state.commits`."""


class Controller:
    """Runs one configuration to its end. `run` is idempotent by name."""

    def __init__(self, config: RunConfig, reporter: Reporter) -> None:
        self.config, self.reporter = config, reporter
        self.store = open_store(config.store)
        self.track = Track(self.store, config.team, config.name)
        self.state = self._read()

    def run(self) -> RunState:
        """Continues from the last committed task; returns at once where the run is finished.

        Raises:
            ConfigError: the configuration or its data differs from what the stream was begun with.
            GuardStop: a guard stopped the stream. Interrupted: Ctrl-C or SIGTERM. TrainingError, StoreError: as named.
        """
        self._check()
        if self.state.state == "finished" and len(self.config.tasks) == len(self.state.commits):
            return self.state
        check_model(self.config.model, self.config.adapter)
        probe(self.store)
        if self.state.state == "running" and (head := self.state.head):
            self.reporter.say(f"taking over from {head.actor}, last heard of at {head.time}; if it is alive, stop it")
        self.reporter.say(f"reading the data of {len(self.config.tasks)} tasks")
        data = self._load_data()
        self._open(data)
        try:
            self._guard()
            self._train(data)
        except OrthoplexError as error:
            self._leave(error)
            raise
        except KeyboardInterrupt:
            self._leave(Interrupted("interrupted"))
            raise
        except Exception as error:
            self._leave(TrainingError(f"{type(error).__name__}: {error}"))
            raise
        self._append("finish", {})
        return self.state

    def _read(self) -> RunState:
        return replay(self.config.team, self.config.name, self.track.entries())

    def _append(self, op: str, body: dict[str, Any]) -> None:
        self.track.append(op, body, after=self.state.head)
        self.state = self._read()

    def _check(self, tasks: Sequence[Mapping[str, Any]] = ()) -> None:
        refuse(self.config.name, objections(self.state, self.config.model_dump(mode="json"), tasks))

    def _load_data(self) -> list[TaskData]:
        config = self.config
        data = [load_task(task, config.data, config.data_folder, config.train.seed) for task in config.tasks]
        for task in data:
            for warning in task.warnings:
                self.reporter.say(f"warning: {warning}")
        self._check([describe_data(task) for task in data])
        return data

    def _open(self, data: list[TaskData]) -> None:
        """Logs what is about to run, where that is new, and that a driver has taken it up."""
        config = self.config.model_dump(mode="json")
        tasks = [describe_data(task) for task in data]
        if config != self.state.config or tasks != list(self.state.tasks):
            self._append("open", {"config": config, "tasks": tasks})
        versions = {name: package_version(name) for name in PACKAGES} | {"python": platform.python_version()}
        self._append("start", {"versions": versions, "cluster": self.config.cluster.model_dump(mode="json")})

    def _train(self, data: list[TaskData]) -> None:
        import ray

        pending = range(len(self.state.commits), len(data))
        if not pending:
            return
        with ExitStack() as stack:
            self.reporter.say(f"starting {self.config.cluster.num_workers} workers")
            stack.enter_context(ray_session(self.config.cluster))
            if shortage := self.config.cluster.shortage(ray.cluster_resources()):
                self.reporter.say(f"waiting for the cluster to grow: {shortage}")
            check = stack.enter_context(stop_signals())
            files = [self._files(commit) for commit in self.state.commits]
            history, digests = [ray.put(pair) for pair in files], [digests_of(pair) for pair in files]
            del files
            config = self.config
            prompts = [prompt_for(config.model.prompt, t, d.labels) for t, d in zip(config.tasks, data, strict=True)]
            refs = tuple(ray.put(task_rows(*pair)) for pair in zip(data, prompts, strict=True))
            job = Job(config.model, config.adapter, config.train, config.deepspeed, self.store.uri, refs)
            group = stack.enter_context(WorkerGroup(job, config.cluster, check))
            for index in pending:
                order = Order(
                    index, self.track.version_root, tuple(history), tuple(digests), self.track.checkpoint_key,
                    self._identity(index), zero_shot=index == 0,
                )  # fmt: skip
                name = config.tasks[index].name
                done = group.train(order, partial(self.reporter.progress, name))
                pair = self._commit(done, data[index])
                history.append(ray.put(pair))
                digests.append(digests_of(pair))
                self._announce()
                self._guard()

    def _identity(self, index: int) -> dict[str, Any]:
        """What must be the same for a checkpoint of task `index` to be resumed from."""
        return {
            "index": index,
            "fingerprint": self.state.tasks[index]["fingerprint"],
            "parents": [commit["manifest_sha256"] for commit in self.state.commits],
            "config": without(self.config.model_dump(mode="json"), (*HARMLESS, "tasks", "name")),
        }

    def _announce(self) -> None:
        """Says which layers will have no room left before the stream's tasks are done."""
        left = len(self.config.tasks) - len(self.state.commits)
        for warning in forecast(self.config.adapter.orthogonality, self.state, left):
            self.reporter.say(f"warning: {warning}")

    def _commit(self, done: TaskDone, data: TaskData) -> tuple[bytes, bytes]:
        """One log entry makes adapter, new directions, metrics row and budget exist together.

        Returns the task's adapter and directions, as they were read back from the store before the commit.
        """
        self._check_base(done)
        body = {
            "version": done.index + 1,
            "index": done.index,
            "task": data.name,
            "prefix": done.prefix,
            "base_digest": done.base_digest,
            "budget": done.budget,
            "overlap": done.overlap,
            "occupancy": done.occupancy,
            "active_parameters": done.active_parameters,
            "stored_bytes": sum(record.size for record in done.files),
            "validation": scores(done.validation),
            "test": scores(done.test),
            "cost": done.cost,
        }
        if done.zero_shot is not None:
            body["zero_shot"] = scores(done.zero_shot)
        metadata = {
            "base_model": self.config.model.model_dump(mode="json"),
            "base_digest": done.base_digest,
            "adapter": self.config.adapter.model_dump(mode="json"),
            "task": describe_data(data),
            "budget": done.budget,
            "occupancy": done.occupancy,
            "principal_angles": done.angles,
            "parents": [commit["manifest_sha256"] for commit in self.state.commits],
            "trained_against": trained_against(self.track, self.state.commits, BASES_FILE),
            "config": self.config.model_dump(mode="json"),
            "code": code_version(),
            "metrics": {split: body[split] for split in ("validation", "test")},
            "cost": done.cost,
        }
        body["manifest_sha256"] = self.track.write_manifest(done.prefix, metadata, done.files)
        stored = self._files(body)
        self._append("commit", body)
        self.reporter.committed(self.state)
        return stored

    def _check_base(self, done: TaskDone) -> None:
        earlier = self.state.commits[0]["base_digest"] if self.state.commits else done.base_digest
        if done.base_digest != earlier:
            raise IntegrityError(
                f"model.name: the weights of {self.config.model.name!r} (sha256 {done.base_digest[:12]}…) are not "
                f"those the stream was begun on ({earlier[:12]}…); load those, or give the run another `name`"
            )

    def _files(self, commit: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """A committed task's adapter and directions, checked against its manifest."""
        manifest = self.track.read_manifest(commit["prefix"], commit["manifest_sha256"])
        adapter, bases = (self.track.read_file(commit["prefix"], manifest, name) for name in (ADAPTER_FILE, BASES_FILE))
        return adapter, bases

    def _guard(self) -> None:
        left = len(self.config.tasks) - len(self.state.commits)
        decision = decide(self.config.guards, self.config.adapter.orthogonality, self.state, left)
        if not decision.go_on:
            raise GuardStop(f"stopped by a guard: {decision.reason}; change the bound and run again to go on")

    def _leave(self, error: OrthoplexError) -> None:
        """Logs why the driver leaves. Where even that fails, the log simply lacks it."""
        op = {GuardStop: "stop", Interrupted: "interrupt"}.get(type(error), "fail")
        with suppress(StoreError):
            self._append(op, {"reason": str(error)})


@contextmanager
def stop_signals() -> Iterator[Any]:
    """Turns SIGINT and SIGTERM into `Interrupted`, raised by the yielded check; a second one ends at once.

    To be entered after `ray.init`, which sets handlers of its own. Outside the main thread it does nothing.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    def check() -> None:
        if received:
            raise Interrupted(f"interrupted by {signal.Signals(received[0]).name}")

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def digests_of(files: tuple[bytes, bytes]) -> tuple[str, str]:
    """The sha256 of each file."""
    return digest(files[0]), digest(files[1])


def describe_data(task: TaskData) -> dict[str, Any]:
    """A task's data as the log keeps it."""
    return {
        "name": task.name,
        "labels": list(task.labels),
        "fingerprint": task.fingerprint,
        "rows": {split: len(getattr(task, split)) for split in ("train", "validation", "test")},
        "warnings": list(task.warnings),
    }


def task_rows(task: TaskData, prompt: Prompt) -> TaskRows:
    """A task's rows as workers get them."""
    splits = {split: getattr(task, split) for split in ("train", "validation", "test")}
    rows = {key: (list(split["text"]), list(split["label"])) for key, split in splits.items()}
    return TaskRows(task.name, task.labels, rows, prompt)


def scores(row: list[Score]) -> list[dict[str, int]]:
    """A metrics row as the log keeps it: counts, from which fractions are computed when read."""
    return [asdict(score) for score in row]
