"""One trial: a run whose tasks a shared pool of workers trains, in an actor of Ray Tune that drives it task by task."""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ray.actor import ActorHandle
from ray.tune import Trainable

from cluster.errors import GuardStop, Interrupted, OrthoplexError
from cluster.resources import ClusterConfig
from cluster.storage import open_store
from orchestrator.config.run import RunConfig
from orchestrator.log.entry import canonical, digest
from orchestrator.registry.references import resolve
from orchestrator.run.changes import HARMLESS, without
from orchestrator.run.controller import Controller
from orchestrator.run.evaluation import Scored
from orchestrator.run.fork import Fork, plan_fork
from orchestrator.run.workers import Check, Group
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.reports import Report, TrialConfig
from orchestrator.track.events import TaskDescription
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from trainers.messages import Job, Order, Progress, TaskDone, Watched
from trainers.workers.pool import PoolClient

LATER_TASKS_ONLY = (
    "adapter.orthogonality.weight",
    "adapter.orthogonality.mode",
    "train.replay",
)  # they act on tasks that have one before


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials of a sweep have in common: its configuration, the descriptions of the tasks' data, the pool with
    the job that it was started for, and the actor that knows who trains a first task."""

    config: SweepConfig
    tasks: Sequence[TaskDescription]
    pool: PoolClient
    job: Job
    first_tasks: ActorHandle


class PoolWorkers:
    """The workers of a pool. They hold base and data already. See `orchestrator.run.workers.Workers`.

    Trials are scored on the validation splits of the tasks learned so far. Nothing depends on the test splits, so
    they are not scored.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def check(self) -> None:
        """Does nothing: the sweep has checked already."""

    def describe(self) -> list[TaskDescription]:
        """The descriptions of the data that the sweep has read."""
        return [*self.shared.tasks]

    @contextmanager
    def session(self) -> Iterator[Check]:
        """Does nothing: an actor is connected to Ray, and the sweep stops it."""
        yield lambda: None

    def share(self, files: tuple[bytes, ...]) -> Any:
        """See Workers: in Ray's object store."""
        import ray

        return ray.put(files)

    def group(self, job: Job, cluster: ClusterConfig, check: Check) -> AbstractContextManager[Group]:
        """The pool, for this job. Tasks, base and folder are those that its workers hold already."""
        shared = self.shared.job
        held = replace(job, tasks=shared.tasks, base=shared.base, folder=shared.folder)
        return nullcontext(PoolGroup(pool=self.shared.pool, job=held, cluster=cluster, check=check))

    def scored(self, index: int) -> Scored:
        """The validation splits so far."""
        return {"zero_shot": False, "validation": range(index + 1), "test": ()}


@dataclass(kw_only=True)
class PoolGroup:
    """Any idle workers of the pool; see `orchestrator.run.workers.Group`."""

    pool: PoolClient
    job: Job
    cluster: ClusterConfig
    check: Check

    def train(self, order: Order, on_event: Callable[[Watched | None], None]) -> TaskDone:
        """As `WorkerGroup.train`."""
        return self.pool.train(replace(order, job=self.job), on_event, self.check)


def first_task_key(config: RunConfig) -> str:
    """The sha256 of all that the first task's adapter and directions depend on; equal keys, equal bytes. What the task
    has in place of a value of `train` counts, and that value does not."""
    as_trained = config.model_copy(update={"train": config.training_of(0)})
    kept = without(as_trained.model_dump(mode="json"), (*HARMLESS, *LATER_TASKS_ONLY, "name", "tasks"))
    return digest(canonical({**kept, "task": config.tasks[0].model_dump(mode="json", exclude={"training"})}))


def beginning(config: RunConfig, shared: Shared) -> Fork | None:
    """The beginning of the trial's run: the stream that the sweep starts from, or another trial's first task."""
    import ray

    store = open_store(config.store)
    track = Track(store, config.team, config.name)
    if any(entry.op == "commit" for entry in track.entries()):
        return None
    if shared.config.start_from:
        return fork_of(shared.config.start_from, config)
    source = ray.get(shared.first_tasks.claim.remote(first_task_key(config), config.name))
    return None if source == config.name else plan_fork(Track(store, config.team, source), 2)


def fork_of(reference: str, config: RunConfig) -> Fork:
    """The stream up to the version that team/run@vN or team/run@ALIAS names, in the run's store."""
    found = resolve(open_store(config.store), reference)
    return plan_fork(found.track, len(found.stream) + 1)


def row(state: RunState, done: int) -> Row:
    """The row after `done` of the committed tasks."""
    then = replace(state, commits=state.commits[:done])
    measured = then.objective
    own = [commit.cost for commit in then.commits if commit.cost and not commit.forked_from]
    return Row(
        tasks=done,
        aa=float(measured["aa"] or 0.0),
        parameters=then.active_parameters or 0,
        bwt=measured["bwt"],
        forgetting=measured["forgetting"],
        train_s=sum(cost.train_s for cost in own),
        evaluate_s=sum(cost.evaluate_s for cost in own),
        gpus=gpus(state),
    )


def gpus(state: RunState) -> float:
    """The number of GPUs that trained the run's last task; 0 if none did."""
    cost = state.commits[-1].cost
    if not (state.config and cost):
        return 0.0  # a run that was cut while it was forked has no configuration yet
    cluster = state.completed().cluster
    return float(cost.workers * cluster.gpus_per_worker) if cluster.use_gpu else 0.0


def results(controller: Controller, steps: Iterator[RunState]) -> Iterator[Report]:
    """Tune's results, one per task; tasks that were committed before come first. The last one has `done`. It also has
    `stopped` if one of the run's own guards ended it, with `quarantined` if before its last task was committed, or
    `cut` if the sweep is leaving."""
    total, reported = len(controller.config.tasks), 0
    end: Report = {"done": True}
    try:
        for state in chain([controller.state], steps):
            while reported < min(len(state.commits), total - 1):
                reported += 1
                yield row(state, reported).model_dump()
    except GuardStop as error:
        end |= {"stopped": str(error), **({"quarantined": True} if controller.state.quarantined else {})}
    except Interrupted:
        end["cut"] = True
    reached = controller.state.reached if "stopped" in end else controller.state
    commits = len(reached.commits)
    yield {**(row(reached, commits).model_dump() if commits else {"tasks": 0}), **end}


class Quiet:
    """A reporter that shows nothing: the sweep shows its trials."""

    def say(self, message: str) -> None:
        """Writes to the actor's log."""
        logging.getLogger("orthoplex").info(message)

    def taken(self, state: RunState) -> None:
        """The run's log has it."""

    def progress(self, task: str, progress: Progress) -> None:
        """The run's log has it."""

    def committed(self, state: RunState) -> None:
        """Tune's result has it."""


class StreamTrial(Trainable):
    """Tune's trainable. `config` is {"number", "values"}, one iteration per task. An actor serves many trials."""

    shared: Shared
    steps: Generator[RunState] | None = None

    def setup(self, config: TrialConfig, shared: Shared | None = None) -> None:
        """Prepares for a trial. `shared` is given once per actor."""
        self.shared = shared or self.shared
        self.trial = self.shared.config.trial(config["number"], config["values"])

    def step(self) -> Report:
        """Trains a task. The first call begins the run, or goes on with it from its last commit."""
        if self.steps is None:
            fork = beginning(self.trial, self.shared)
            controller = Controller(self.trial, Quiet(), fork, PoolWorkers(self.shared))
            self.steps = controller.steps()
            self.results = results(controller, self.steps)
        return next(self.results)

    def reset_config(self, new_config: TrialConfig) -> bool:
        """Leaves the trial where it stands, and prepares for another."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Leaves the trial where it stands; if it has not ended, its log says why."""
        if self.steps is not None:
            with suppress(OrthoplexError, StopIteration):
                self.steps.throw(GuardStop(f"stopped by the sweep {self.shared.config.name}; its log says why"))
        self.steps = None
