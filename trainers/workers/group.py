"""One worker group for a whole stream, or for the streams of many runs. A small actor, the feed, gives it the tasks.

The feed is the only thing that driver and workers share. Workers ask it for orders. When the group breaks, another is
started at once, and the feed lets it wait until the driver has decided how to go on. The function that starts workers,
for a run `TorchTrainer.fit()`, runs in the feed's process, so both end if the driver leaves.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from cluster.errors import Interrupted, OrthoplexError, TrainingError
from cluster.resources import ClusterConfig
from cluster.session import here
from cluster.temporary import temporary
from trainers.messages import (
    Checkpointed,
    Event,
    Failed,
    Job,
    Lost,
    Order,
    Progress,
    Said,
    Saved,
    Started,
    TaskDone,
    Watched,
)

OnEvent = Callable[[Watched | None], None]
Serve = Callable[[ClusterConfig, Any, str], None]  # (cluster, feed, folder): keeps workers going until the stream ends
POLL_S, CLOSE_S = 0.5, 10.0
MEET_S = 3.0  # wait for other ranks to meet the same error; they do so within the same step
SETTLE_S = 2.0  # wait for a rank that failed to say why, after another rank has noticed its absence


class WorkersLost(Exception):
    """The worker group broke while it trained; another is being started. The caller decides if it gets an order."""

    def __init__(self, lost: Lost) -> None:
        super().__init__(lost.reason)
        self.lost = lost


class Feed:
    """Actor: the driver puts orders in and takes events out; workers do the reverse."""

    def __init__(self) -> None:
        self.order: Order | None = None
        self.number, self.ready = 0, False
        self.leaving = self.told = False
        self.job: Job | None = None
        self.changed = asyncio.Condition()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.errors: list[str] = []

    async def put_order(self, order: Order | None) -> None:
        """Sets the task to train now; None ends the stream. Earlier events are dropped, unless the group has failed for
        good."""
        async with self.changed:
            before = [self.events.get_nowait() for _ in range(self.events.qsize())]
            for event in before:
                if isinstance(event, Failed) and event.workers == "gone":
                    self.events.put_nowait(event)
            self.number, self.order, self.ready, self.errors = self.number + 1, order, True, []
            self.changed.notify_all()

    async def next_order(self, after: int) -> tuple[int, Order | None]:
        """Waits for an order with a number above `after`; the order is None if the stream has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.ready and self.number > after)
            return self.number, self.order

    async def leave(self) -> None:
        """Asks the workers to store a checkpoint of the task in training and to end."""
        self.leaving = True

    async def is_leaving(self) -> bool:
        """Whether `leave` was called."""
        return self.leaving

    async def report(self, event: Event, number: int | None = None) -> None:
        """Adds an event from a worker. An event about order `number` is dropped if that is not the newest order.

        A group that breaks gives one event, no matter who reports it first: a worker reports why it ends, and then Ray
        reports that it did. The next group gets no order that was given before.
        """
        if number not in (None, self.number):
            return
        ends = isinstance(event, Failed) and event.workers == "restart"
        if isinstance(event, Started):
            self.told = False
        elif ends or (isinstance(event, Lost) and not (self.ready and self.order is None)):
            told, self.told = self.told, ends or getattr(event, "kind", "") != "workers"
            if told:
                return
            self.ready = False
        await self.events.put(event)

    async def met(self, number: int, error: str, ranks: int) -> bool:
        """Whether `ranks` ranks have met the same error at order `number`; waits `MEET_S` for the others."""
        async with self.changed:
            if number != self.number:
                return False
            self.errors.append(error)
            self.changed.notify_all()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.errors.count(error) >= ranks), MEET_S)
            return self.errors.count(error) >= ranks

    async def begin(self, job: Job) -> None:
        """Sets the job of the workers, which start without it and wait for it."""
        async with self.changed:
            self.job = job
            self.changed.notify_all()

    async def begun(self) -> Job:
        """Waits for the job."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.job is not None)
            return self.job  # type: ignore[return-value]

    async def serve(self, serve: Serve, cluster: ClusterConfig, folder: str) -> None:
        """Runs the worker group to the end of the stream. An error that ends it early becomes an event."""
        import ray

        feed = ray.get_runtime_context().current_actor
        try:
            await asyncio.to_thread(serve, cluster, feed, folder)
        except Exception as error:
            ended = f"the worker group ended: {last_line(error)}"
            await self.events.put(Failed(ended, TrainingError.exit_code, workers="gone"))

    async def next_event(self, timeout_s: float) -> Event | None:
        """The oldest unread event, or None after `timeout_s`. If a group broke, waits longer for the reason."""
        try:
            event = await asyncio.wait_for(self.events.get(), timeout_s)
        except TimeoutError:
            return None
        return await self._why(event) if isinstance(event, Lost) and event.kind == "workers" else event

    async def _why(self, lost: Lost) -> Event:
        """The event of a worker that reports, within `SETTLE_S`, an error that no retry mends; else `lost`. One rank's
        error is another rank's broken connection, and either may be reported first."""
        await asyncio.sleep(SETTLE_S)
        later = [self.events.get_nowait() for _ in range(self.events.qsize())]
        said = next((event for event in later if isinstance(event, Failed)), None)
        for event in later:
            if event is not said:
                self.events.put_nowait(event)
        return said or lost


class WorkerGroup:
    """Started workers that train one task after another, of one run or of many. Use as a context manager inside a Ray
    session.

    After `train` has returned or raised, the group waits for the next order, unless it is `broken` and of no more use.
    `there` says whether its workers have started and not ended since.
    """

    def __init__(
        self,
        job: Job | None,
        cluster: ClusterConfig,
        check: Callable[[], None] = lambda: None,
        folder: str | None = None,
        serve: Serve | None = None,
    ) -> None:
        """`job` may come later, with `begin`, since the slow part of a start does not need it. `check` is called at
        least every half second while waiting, and may raise to leave. Temporary files go below `folder`. `serve` starts
        the workers, by default `fit`."""
        self.job, self.cluster, self.check, self.parent, self.serve = job, cluster, check, folder, serve
        self.training = self.broken = self.there = False

    def __enter__(self) -> Self:
        import ray

        self.feed: Any = ray.remote(num_cpus=0, scheduling_strategy=here())(Feed).remote()
        self.folder = temporary("train", below=self.parent)
        self.served = self.feed.serve.remote(self.serve or fit, self.cluster, self.folder.name)
        if self.job is not None:
            self.begin(self.job)
        return self

    def begin(self, job: Job) -> None:
        """Gives the workers their job. Call it once, before the first order."""
        self.feed.begin.remote(job)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import ray

        if kind is None and not self.broken:
            ray.get(self.feed.put_order.remote(None))
            ray.wait([self.served], timeout=CLOSE_S)  # all is committed, so a group that breaks now does not matter
        ray.kill(self.feed)
        self.folder.cleanup()

    def train(self, order: Order, on_event: OnEvent) -> TaskDone:
        """Has the group train one task and waits for it. `on_event` gets every event, and None while there is none.

        If `check` raises Interrupted while the task is in training, the workers have `grace_s` seconds to store a
        checkpoint.

        Raises:
            WorkersLost: the group broke; call again to go on. OrthoplexError: a worker gave up with a message for the
            user, or the group failed for good.
        """
        import ray

        try:
            ray.get(self.feed.put_order.remote(order))
            return self._wait(on_event)
        except ray.exceptions.RayError as error:
            self.broken = True
            raise TrainingError(f"Ray failed: {last_line(error)}") from error
        finally:
            self.training = False

    def _wait(self, on_event: OnEvent) -> TaskDone:
        import ray

        leaving, deadline = None, float("inf")
        while True:
            event = ray.get(self.feed.next_event.remote(POLL_S))
            self._note(event)
            if done := outcome(event, on_event):
                return done
            if leaving and (isinstance(event, Saved) or time.monotonic() > deadline):
                raise leaving
            if leaving is None:  # after the event, so that a finished task is not lost
                leaving, deadline = self._interruption()

    def _note(self, event: Event | None) -> None:
        match event:
            case Started() | Progress() | TaskDone():
                self.there, self.training = True, isinstance(event, Progress)
            case Lost():
                self.there = False
            case Failed():
                self.there, self.broken = event.workers == "stay", self.broken or event.workers == "gone"

    def _interruption(self) -> tuple[Interrupted | None, float]:
        """The error that `check` raises, and the deadline for the workers' checkpoint. Raises it if no task trains."""
        try:
            self.check()
        except Interrupted as error:
            if not self.training:
                raise
            self.broken = True  # the workers end, with or without a checkpoint
            self.feed.leave.remote()
            return error, time.monotonic() + self.cluster.grace_s
        return None, float("inf")


def fit(cluster: ClusterConfig, feed: Any, folder: str) -> None:
    """Runs `TorchTrainer.fit()` over the train loop. Nothing is kept in `folder`, its storage."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.callback import UserCallback

    from trainers.workers.meeting import Meeting
    from trainers.workers.worker import train_loop  # imports torch, which a driver does not need

    class Witness(UserCallback):
        """Tells the feed that the group broke; it must never raise, since that would end the run."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
            said = (f"rank {rank}: {last_line(error)}" for rank, error in sorted(worker_exceptions.items()))
            feed.report.remote(Lost("workers", "; ".join(said)))

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # `trainers.folders.scratch` does it, and remembers the first folder
    workers = cluster.num_workers
    TorchTrainer(
        train_loop,
        train_loop_config={"feed": feed, "folder": folder},
        torch_config=Meeting(backend="nccl" if cluster.use_gpu else "gloo", folder=folder),
        scaling_config=ScalingConfig(
            num_workers=(workers.min, workers.max) if workers.elastic else workers.max,
            use_gpu=cluster.use_gpu,
            resources_per_worker=cluster.worker_resources(),
        ),
        run_config=RunConfig(
            name=f"orthoplex-{uuid.uuid4().hex[:12]}",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=-1),  # orchestrator.run.retries decides
            callbacks=[Witness()],
        ),
    ).fit()


def outcome(event: Event | None, on_event: OnEvent) -> TaskDone | None:
    """The event if it is the end of a task, else None. `on_event` gets events that are not an end.

    Raises:
        WorkersLost, OrthoplexError: as `WorkerGroup.train`.
    """
    match event:
        case None | Started() | Progress() | Checkpointed() | Said():
            on_event(event)
        case TaskDone():
            return event
        case Lost():
            raise WorkersLost(event)
        case Failed():
            raise failure(event)
    return None


def failure(event: Failed) -> OrthoplexError:
    """The exception for a worker's message, with its exit code and evidence."""
    error = TrainingError(event.message)
    error.exit_code, error.evidence = event.exit_code, event.evidence
    return error


def last_line(error: Exception) -> str:
    """The last non-empty line of an error's message, in which Ray puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
