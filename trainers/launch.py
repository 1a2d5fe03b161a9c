"""One Ray Train worker group for a whole stream, fed task by task through a small actor.

The feed is the only thing that controller and workers share. Workers ask it for the next task after the last one they
finished, so a restarted worker group goes on where the controller stands. `TorchTrainer.fit()` runs in the feed's
process: a driver that leaves in the middle takes the feed, and with it the trainer, down.
"""

import asyncio
import tempfile
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from cluster.errors import OrthoplexError, TrainingError
from cluster.resources import ClusterConfig
from trainers.messages import Event, Failed, Job, Order, Progress, TaskDone
from trainers.train_loop import train_loop

POLL_S = 0.5


class Feed:
    """Actor: orders go in one end and events come out of the other."""

    def __init__(self) -> None:
        self.order: Order | None = None
        self.closed = False
        self.changed = asyncio.Condition()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    async def put_order(self, order: Order | None) -> None:
        """Sets the task to train now; None ends the stream."""
        async with self.changed:
            self.order, self.closed = order, order is None
            self.changed.notify_all()

    async def next_order(self, done: int) -> Order | None:
        """Waits for an order beyond task index `done`; None when the stream has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed or (self.order is not None and self.order.index > done))
            return self.order

    async def report(self, event: Event) -> None:
        """Adds an event from a worker."""
        await self.events.put(event)

    async def fit(self, job: Job, cluster: ClusterConfig, folder: str) -> None:
        """Runs the worker group to the end of the stream; what ends it early becomes an event."""
        import ray

        feed = ray.get_runtime_context().current_actor
        try:
            await asyncio.to_thread(fit, job, cluster, feed, folder)
        except Exception as error:
            await self.events.put(Failed(f"the worker group ended: {last_line(error)}", TrainingError.exit_code))

    async def next_event(self, timeout_s: float) -> Event | None:
        """The oldest unread event, or None after `timeout_s`."""
        try:
            return await asyncio.wait_for(self.events.get(), timeout_s)
        except TimeoutError:
            return None


class WorkerGroup:
    """A running `TorchTrainer`. Use as a context manager inside a Ray session."""

    def __init__(self, job: Job, cluster: ClusterConfig, check: Callable[[], None] = lambda: None) -> None:
        """`check` is called at least every half second while waiting and may raise to leave."""
        self.job, self.cluster, self.check = job, cluster, check

    def __enter__(self) -> Self:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.feed: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Feed).remote()
        self.folder = tempfile.TemporaryDirectory(prefix="orthoplex-train-", ignore_cleanup_errors=True)
        self.fitted = self.feed.fit.remote(self.job, self.cluster, self.folder.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import ray

        if kind is None:
            ray.get(self.feed.put_order.remote(None))
            ray.get(self.fitted)
        ray.kill(self.feed)
        self.folder.cleanup()

    def train(self, order: Order, on_progress: Callable[[Progress], None]) -> TaskDone:
        """Has the group train one task and waits for it.

        Raises:
            OrthoplexError: a worker gave up with a message for the user, or the group failed for good.
        """
        import ray

        try:
            ray.get(self.feed.put_order.remote(order))
            while True:
                event = ray.get(self.feed.next_event.remote(POLL_S))
                match event:
                    case Progress():
                        on_progress(event)
                    case TaskDone(index=index) if index == order.index:
                        return event
                    case Failed():
                        raise failure(event)
                self.check()  # after the match: what is finished is not thrown away
        except ray.exceptions.RayError as error:
            raise TrainingError(f"Ray failed: {last_line(error)}") from error


def fit(job: Job, cluster: ClusterConfig, feed: Any, folder: str) -> None:
    """Runs `TorchTrainer.fit()` over the train loop. Its storage, `folder`, stays empty: the store's commits count."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        train_loop,
        train_loop_config={"job": job, "feed": feed},
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker=cluster.worker_resources(),
        ),
        run_config=RunConfig(
            name=f"orthoplex-{uuid.uuid4().hex[:12]}",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    ).fit()


def failure(event: Failed) -> OrthoplexError:
    """The exception for a worker's message, with its exit code."""
    error = TrainingError(event.message)
    error.exit_code = event.exit_code
    return error


def last_line(error: Exception) -> str:
    """The last non-empty line of an error's text, where Ray puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
