"""The driver of a run: takes it from its last commit to its end. It may die at any instant and be started again.

No other driver may write to the run's log meanwhile; promotions and housekeeping may. Workers put a task's files under
a prefix of their own; the task exists from the moment its `commit` entry stands in the log.
"""

import gc
import platform
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import Any

from cluster.errors import ConfigError, GuardStop, IntegrityError, TrainingError
from cluster.resources import ClusterConfig
from cluster.storage import open_store, probe
from orchestrator.config.run import RunConfig
from orchestrator.gates.noise import kept_rows
from orchestrator.gates.noise import noise as noise_of
from orchestrator.log.chain import READERS
from orchestrator.log.decision import stops
from orchestrator.log.entry import canonical, digest
from orchestrator.run.changes import (
    HARMLESS,
    going_on,
    learned_as,
    learned_jointly,
    objections,
    refuse,
    way_on,
    without,
)
from orchestrator.run.driver_log import RunLog
from orchestrator.run.fork import Fork, take_over
from orchestrator.run.guards import forecast, full, judged, rounded_off
from orchestrator.run.retries import Attempt, decide_retry
from orchestrator.run.watch import Reporter, Watch
from orchestrator.run.workers import Group, OwnWorkers, Workers, base_now, describe_joint
from orchestrator.track.events import Commit, Finish, Learned, Open, Quarantine, Retry, TaskDescription
from orchestrator.track.provenance import base_told, code_version
from orchestrator.track.scores import scores
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from trainers.config import AT_ONCE
from trainers.identity import Identity, other_base
from trainers.messages import Job, Order, TaskDone, Vouched
from trainers.training.decisions import DECISIONS
from trainers.workers.group import WorkersLost


class Controller:
    """Runs one configuration to its end, from the first tasks of another stream with `fork`. `run` is idempotent by
    name."""

    def __init__(
        self, config: RunConfig, reporter: Reporter, fork: Fork | None = None, workers: Workers | None = None
    ) -> None:
        """`workers` are the run's own by default."""
        self.reporter, self.fork = reporter, fork
        self.store = open_store(config.store)
        self.track = Track(self.store, config.team, config.name)
        self.log = RunLog(self.track)
        self.config = going_on(config, self.state.config)
        self.workers = workers or OwnWorkers(self.config, reporter.say)
        self.accumulation = config.train.gradient_accumulation_steps

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return self.log.state

    @cached_property
    def content(self) -> dict[str, Any]:
        """The configuration as it is stored. It is long if there are many tasks, and no task changes it."""
        return self.config.model_dump(mode="json")

    def run(self) -> RunState:
        """Continues from the last committed task; returns at once if the run is finished. Raises as `steps`."""
        for _ in self.steps():
            pass
        return self.state

    def steps(self) -> Generator[RunState]:
        """`run` in steps: yields where it stands before the first task to train, and after each. To leave between two
        steps, throw what is to be logged as the reason.

        Raises:
            ConfigError: the configuration or its data differs from what the stream was begun with.
            ConflictError: another driver is at work on the run.
            GuardStop: a guard stopped the stream. Interrupted: Ctrl-C or SIGTERM. TrainingError, StoreError: as named.
        """
        self._check()
        if self.state.status == "finished" and len(self.config.tasks) == self.state.learned:
            return
        self.workers.check()
        if self.fork and self.fork.imported:
            self.fork.check_layers(target_layers(self.config), self.config.adapter)
        probe(self.store)
        lease_s = self.config.cluster.lease_s
        versions = {**code_version()["packages"], "python": platform.python_version()}
        done = self.state.status == "finished"  # for sinks too, until what is appended to it is known to be sound
        self.log.take(versions, lease_s, self.reporter.say, self.config.cluster.model_dump(mode="json"))
        with self.log.left(), self.log.kept(lease_s):
            if self.fork:
                take_over(self.log, self.fork)
            self._check(base=base_now(self.state, self.config.model))  # now that nobody else writes the log
            if not done:
                self.reporter.taken(self.state)
            self.reporter.say(f"reading the data of {len(self.config.tasks)} tasks")
            tasks = self.workers.describe()
            self._check(tasks)
            if done:
                self.reporter.taken(self.state)
            if self.state.not_compared:
                self.reporter.say(f"note: {self.state.not_compared}")
            self._open(tasks)
            self._guard()
            self._release()
            yield self.state
            yield from self._train()
        self.log.append(Finish())

    def _check(self, tasks: Sequence[TaskDescription] = (), base: Identity | None = None) -> None:
        if self.fork:
            self.fork.check(self.config.adapter)
        if self.fork and self.config.train.joint:
            raise ConfigError("train.joint: all tasks are trained at once, from the base; leave --fork out")
        found = objections(self.state, self.content, tasks, base)
        refuse(self.config.name, [each.line for each in found], way_on(self.state, found))

    def _open(self, tasks: Sequence[TaskDescription]) -> None:
        """Logs what is about to run, if that is new."""
        if self.content != self.state.config or tuple(tasks) != self.state.tasks:
            self.log.append(Open(config=self.content, tasks=tuple(tasks)))

    def _train(self) -> Iterator[RunState]:
        """Trains what is not committed, with one worker group for as long as tasks ask for the same one."""
        pending = [index for index in self.config.stages if index >= self.state.learned]
        if not pending:
            return
        with self.workers.session() as stop, few_objects():
            with ThreadPoolExecutor(READERS) as pool:
                files = list(pool.map(self._files, self.state.commits))
            history, digests = [self.workers.share(task) for task in files], [digests_of(task) for task in files]
            del files

            def check() -> None:
                self.log.check()
                stop()

            for cluster, indices in groupby(pending, self._cluster):
                with self.workers.group(self._job(), cluster, check) as group:
                    for index in indices:
                        done = self._trained(group, self._order(index, history, digests))
                        task = self._commit(done, [last for *_, last in digests])
                        history.append(self.workers.share(task))
                        digests.append(digests_of(task))
                        self._announce()
                        self._stop_if(self._full())
                        yield self.state

    def _cluster(self, index: int) -> ClusterConfig:
        """The resources that task `index` needs from the cluster."""
        return self.config.cluster.with_resources(self.config.tasks[index].resources)

    def _job(self) -> Job:
        config = self.config
        return Job(self.track.label, config.model, config.adapter, config.train, config.deepspeed, self.store.uri, ())

    def _order(self, index: int, history: Sequence[Any], digests: Sequence[tuple[str, ...]]) -> Order:
        return Order(
            index, self.accumulation, self.track.version_root, tuple(history), tuple(digests),
            self.track.checkpoint_key, self._identity(index), **self.workers.scored(index), base=self.state.base,
            rows=self.config.evaluate.rows, keep_answers=self.config.evaluate.keep_answers,
            keep_rows=self.config.evaluate.keep_rows, union=self.config.evaluate.labels == "both",
            macro_f1=self.config.evaluate.macro_f1, training=self.config.tasks[index].training,
        )  # fmt: skip

    def _vouched(self) -> dict[str, Any]:
        """The checkpoint of the task in training that this driver or the log names, and whether no other is fit."""
        position = self.log.progress
        told = (position.checkpoint if position else None) or self.state.driving.checkpoint
        named = Vouched(told.step, told.sha256, told.of) if told else None
        return {"vouched": named, "only_vouched": self.track.trust.required}

    def _trained(self, group: Group, order: Order) -> TaskDone:
        """Has a task trained, again if the group breaks and the policy allows it.

        Raises:
            TrainingError: the policy gives up.
        """
        name = AT_ONCE if self.config.train.joint else self.state.tasks[order.index].name
        watch = Watch(name, group.cluster, self.reporter, self.log)
        while True:
            try:
                return group.train(replace(order, accumulation=self.accumulation, **self._vouched()), watch)
            except WorkersLost as error:
                watch.broke()
                attempt = Attempt(watch.failures, self.accumulation, watch.workers)
                train = self.config.training_of(order.index)
                retry = decide_retry(error.lost, attempt, train, group.cluster.max_failures)
                self.log.decide(retry.decision(watch.task))
                if not retry.again:
                    raise TrainingError(retry.reason) from None
                self.log.append(Retry(index=order.index, reason=retry.reason, kind=error.lost.kind))
                self.reporter.say(f"[{order.index + 1}/{len(self.config.tasks)}] {watch.task}: {retry.reason}")
                self.accumulation = retry.accumulation

    def _identity(self, index: int) -> dict[str, Any]:
        """The key that a checkpoint of task `index` must have for training to resume from it."""
        return {
            "index": index,
            "fingerprint": self._trained_task(index).fingerprint,
            "parents": [commit.manifest_sha256 for commit in self.state.commits],
            "config": without(self.content, (*HARMLESS, "tasks", "name")),
            **(learned_jointly(self.config.tasks) if self.config.train.joint else learned_as(self.config.tasks[index])),
        }

    def _announce(self) -> None:
        """Says which layers will have no room left before the stream's tasks are done, and if rounding loses much."""
        left = len(self.config.tasks) - self.state.learned
        warnings = forecast(self.config.adapter.protection, self.state, left) + rounded_off(self.state)
        self.log.decide(*warnings)
        for warning in warnings:
            self.reporter.say(f"warning: {warning.reason}")

    def _commit(self, done: TaskDone, against: Sequence[str]) -> tuple[bytes, ...]:
        """One log entry makes the task's files, metrics row and budget exist together, if the guards let it.

        `against` is the sha256 of the last file of each earlier task: for oa the directions that the adapter was kept
        out of. Returns the task's files, as they were read back from the store before the commit.

        Raises:
            GuardStop: a guard does not; another entry names the files.
        """
        self._check_base(done)
        learned = self._learned(done)
        sha256 = self.track.write_manifest(done.prefix, self._manifest(done, learned, against), done.files)
        size = sum(record.size for record in done.files)
        commit = Commit.placed(
            learned, version=done.index + 1, prefix=done.prefix, manifest_sha256=sha256, stored_bytes=size
        )
        stored = self._files(commit)
        if stops := self._judge(self.state.with_commit(commit)):
            self.log.append(Quarantine.instead(commit, identity_of(self._identity(done.index))))
            self.log.progress = None
            raise self._quarantined(stops)
        self._append(commit)
        return stored

    def _append(self, commit: Commit) -> None:
        self.log.append(commit)
        self.log.progress = None
        self.reporter.committed(self.state)
        gc.collect()  # what a task left in cycles: a large process collects too rarely by itself

    def _release(self) -> None:
        """Commits what is quarantined, without training it again, if the guards let it now. What would be trained
        otherwise now is left where it is.

        Raises:
            GuardStop: they still do not. IntegrityError: its files were changed.
        """
        if (held := self.state.quarantined) is None or held.index is None:
            return
        name = f"v{held.version}, {held.task},"
        if held.index >= len(self.state.tasks) or held.identity != identity_of(self._identity(held.index)):
            self.reporter.say(f"{name} is quarantined, but is to be trained otherwise now: training it anew")
            return
        if reasons := self._judge(self.state.reached):
            raise self._quarantined(reasons)
        self._files(held.commit)
        self.reporter.say(f"{name} was quarantined, and is within the bounds now: committing it as it was trained")
        self._append(held.commit)
        self._announce()
        self._stop_if(self._full())

    def _judge(self, state: RunState) -> list[str]:
        """The reasons why the guards do not let what was learned last be committed; the log will have the decisions."""
        noise = noise_of(self.config.guards, state, kept_rows(self.track))
        decisions = judged(self.config.guards, state, noise)
        self.log.decide(*decisions)
        return stops(decisions)

    def _quarantined(self, reasons: Sequence[str]) -> GuardStop:
        held = self.state.quarantined
        assert held is not None
        return GuardStop(
            f"stopped by a guard: {'; '.join(reasons)}; v{held.version}, {held.task}, is quarantined and not "
            "committed, versions and aliases stay as they are: change the bound and run again to commit it as it was "
            "trained, or "
            f"`orthoplex adapters gc {self.state.label} --quarantined --yes` and run again to train it anew"
        )

    def _learned(self, done: TaskDone) -> Learned:
        zero_shot = {} if done.zero_shot is None else {"zero_shot": scores(done.zero_shot)}
        kept = {} if done.kept is None else {"kept": done.kept}
        union = {"union": scores(done.union)} if done.union else {}
        mixed = {"trained_rows": done.trained_rows} if done.trained_rows else {}
        felt = {} if done.functional is None else {"functional": done.functional}
        digests = [each.sha256 for each in done.files if each.path == DECISIONS]
        return Learned.model_validate(
            {
                "index": done.index,
                "task": self._trained_task(done.index).name,
                "base_digest": done.base_digest,
                "budget": done.budget,
                "overlap": done.overlap,
                "occupancy": done.occupancy,
                "active_parameters": done.active_parameters,
                "validation": scores(done.validation),
                "test": scores(done.test),
                "cost": done.cost,
                **zero_shot,
                **base_told(done.tokenizer, done.base_config),
                **kept,
                **union,
                **mixed,
                **felt,
                **({"decisions_sha256": digests[0]} if digests else {}),
            }
        )

    def _trained_task(self, index: int) -> TaskDescription:
        """The description of what is learned in a stage: a task, or all of them at once."""
        return describe_joint(self.state.tasks) if self.config.train.joint else self.state.tasks[index]

    def _manifest(self, done: TaskDone, learned: Learned, against: Sequence[str]) -> dict[str, Any]:
        """The manifest's keys beside its files."""
        return {
            "base_model": self.config.model.model_dump(mode="json"),
            "base_digest": done.base_digest,
            "adapter": self.config.adapter.model_dump(mode="json"),
            "task": self._trained_task(done.index).body(),
            "budget": done.budget,
            "occupancy": done.occupancy,
            "principal_angles": done.angles,
            "parents": [commit.manifest_sha256 for commit in self.state.commits],
            "trained_against": list(against),
            "config": self.content,
            "code": code_version(),
            "metrics": learned.model_dump(mode="json", include={"validation", "test", "union"}, exclude_unset=True),
            "cost": done.cost,
            **base_told(done.tokenizer, done.base_config),
            **({} if done.kept is None else {"kept": done.kept}),
        }

    def _check_base(self, done: TaskDone) -> None:
        if faults := self.state.base.differences(Identity(done.base_digest, done.tokenizer, done.base_config)):
            raise IntegrityError(other_base(self.config.model.name, faults))

    def _files(self, commit: Commit) -> tuple[bytes, ...]:
        """A committed task's files, checked against its manifest."""
        return self.track.committed(commit, *self.config.adapter.files)

    def _guard(self) -> None:
        """Judges what is committed. An older Orthoplex committed what broke a bound, and bounds change."""
        self._stop_if(self._judge(self.state) + self._full())

    def _full(self) -> list[str]:
        """Why no further task can be trained, if that is so; the log will have the decision."""
        left = len(self.config.tasks) - self.state.learned
        decisions = full(self.config.adapter.protection, self.state, left)
        self.log.decide(*decisions)
        return [each.reason for each in decisions]

    def _stop_if(self, reasons: Sequence[str]) -> None:
        if reasons:
            raise GuardStop(f"stopped by a guard: {'; '.join(reasons)}; change the bound and run again to go on")


@contextmanager
def few_objects() -> Iterator[None]:
    """Within the block what is loaded so far is left out of garbage collection: a full one takes milliseconds."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def identity_of(identity: Mapping[str, Any]) -> str:
    """The digest of what a task's training depends on, see `Order.identity`."""
    return digest(canonical(identity))


def target_layers(config: RunConfig) -> list[str]:
    """The names of the layers that a run adapts."""
    from trainers.methods.registry import check_method

    return [*check_method(config.model, config.adapter)[1].modules]


def digests_of(files: tuple[bytes, ...]) -> tuple[str, ...]:
    """The sha256 of each file."""
    return tuple(map(digest, files))
