"""A pool of started worker groups which serves many runs: starting one costs 40 CPU-seconds, an order nothing.

One actor holds the groups and deals the orders. A caller asks for a task with `PoolClient.train`, from whatever process
it runs in, and follows it; it holds nothing that somebody would have to give back. A caller that dies while it waits is
passed over, and one that dies later leaves a task which ends by itself.
"""

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from cluster.errors import Interrupted, OrthoplexError, TrainingError
from cluster.resources import ClusterConfig
from cluster.session import here, reap, reap_trainers
from trainers.config import ModelConfig
from trainers.messages import Event, Failed, Job, Lost, Order, Progress, Started, TaskDone
from trainers.workers.group import CLOSE_S, POLL_S, OnEvent, WorkerGroup, WorkersLost, last_line, outcome
from trainers.workers.ranks import serve

REAP_S = 5.0  # how often a group that waits for room looks for what dead ones hold
ABSENT_S = 30.0  # a caller that has not asked for that long gets no slot; one in good health asks every half second
FORGOTTEN_S = 600.0  # what nobody has asked for that long is dropped
LEFT = "the pool of workers was told to leave"


@dataclass
class Ticket:
    """One order in the pool: what has happened to it, and when its caller last asked."""

    order: Order
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    asked: float = field(default_factory=time.monotonic)

    def silent_s(self) -> float:
        """How long its caller has not asked."""
        return time.monotonic() - self.asked


class Slot:
    """One worker group, driven from one thread; another takes its place where it is of no more use."""

    def __init__(self, cluster: ClusterConfig, folder: str, check: Callable[[], None]) -> None:
        self.cluster, self.folder, self.check = cluster, folder, check
        self.job: Job | None = None
        self.group: WorkerGroup | None = None
        self.lock = threading.Lock()  # its first order may come while the pool has it start
        self.run, self.busy = "", False

    def start(self) -> WorkerGroup:
        """The group, which is about to start if it was not there."""
        with self.lock:
            if self.group is None:
                self.group = WorkerGroup(self.job, self.cluster, self.check, self.folder, serve).__enter__()
            return self.group

    def begin(self, job: Job) -> None:
        """Gives the group, and those that take its place, what its workers are to hold."""
        with self.lock:
            self.job = job
            if self.group is not None:
                self.group.begin(job)

    @property
    def there(self) -> bool:
        """Whether its workers need not start first."""
        return self.group is not None and self.group.there

    def train(self, order: Order, on_event: OnEvent) -> TaskDone | Lost | Failed:
        """Has the group train one task and waits for it: how that ended."""
        self.run = order.job.run if order.job else ""
        look_at = time.monotonic() + REAP_S

        def told(event: Started | Progress | None) -> None:
            nonlocal look_at
            if event is None and not self.there and time.monotonic() > look_at:
                reap()  # what a group before it may have left holds the room that it waits for
                look_at = time.monotonic() + REAP_S
            on_event(event)

        try:
            return self.start().train(order, told)
        except WorkersLost as error:
            return error.lost
        except OrthoplexError as error:
            return Failed(str(error), error.exit_code, getattr(error, "evidence", {}))
        except Exception as error:
            return Failed(f"the pool failed: {last_line(error)}", TrainingError.exit_code)
        finally:
            if self.group is None or self.group.broken:
                self.end(at_once=True)

    def end(self, *, at_once: bool) -> None:
        """Ends the group, at once or when its workers have left."""
        import ray

        with self.lock:
            group, self.group = self.group, None
        error = Interrupted(LEFT) if at_once else None
        if group is not None:
            with suppress(ray.exceptions.RayError):
                group.__exit__(type(error) if error else None, error, None)


class Slots:
    """Actor: the slots, and who waits for one."""

    def __init__(self, cluster: ClusterConfig, slots: int, folder: str) -> None:
        self.left = threading.Event()
        self.slots = [Slot(cluster, folder, self._check) for _ in range(slots)]
        self.threads = ThreadPoolExecutor(slots)
        self.tickets: dict[str, Ticket] = {}
        self.waiting: list[Ticket] = []
        self.serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Has all groups start; they need not be there for orders to be given."""
        await self._on_all(Slot.start)

    async def begin(self, job: Job) -> None:
        """Gives all groups what their workers are to hold."""
        await self._on_all(lambda slot: slot.begin(job))

    async def close(self, at_once: bool) -> None:
        """Ends all groups; those at work at once."""
        self._turn_away()
        await self._on_all(lambda slot: slot.end(at_once=at_once or slot.busy))

    async def submit(self, order: Order) -> str:
        """Takes an order in; its ticket."""
        self.tickets = {key: ticket for key, ticket in self.tickets.items() if ticket.silent_s() < FORGOTTEN_S}
        self.waiting = [ticket for ticket in self.waiting if ticket.silent_s() < FORGOTTEN_S]
        name, ticket = uuid.uuid4().hex, Ticket(order)
        self.tickets[name] = ticket
        if self.left.is_set():
            ticket.events.put_nowait(interrupted())
        else:
            self.waiting.append(ticket)
            self._deal()
        return name

    async def next_event(self, name: str, timeout_s: float) -> Event | None:
        """The oldest unread event of a ticket, or None after `timeout_s`."""
        ticket = self.tickets.get(name)
        if ticket is None:
            return Failed(f"the caller was silent for {FORGOTTEN_S:.0f} s and forgotten", TrainingError.exit_code)
        ticket.asked = time.monotonic()
        self._deal()
        try:
            event = await asyncio.wait_for(ticket.events.get(), timeout_s)
        except TimeoutError:
            return None
        if isinstance(event, TaskDone | Lost | Failed):
            self.tickets.pop(name, None)
        return event

    async def leave(self) -> None:
        """Gives no more orders out, and has the tasks in training kept; returns when they are, or `grace_s` is up."""
        self._turn_away()
        await asyncio.gather(*self.serving)

    def _turn_away(self) -> None:
        self.left.set()
        for ticket in self.waiting:
            ticket.events.put_nowait(interrupted())
        self.waiting = []

    def _deal(self) -> None:
        """Gives idle slots to the callers that have waited longest and still ask."""
        for ticket in [ticket for ticket in self.waiting if ticket.silent_s() < ABSENT_S]:
            place = choose([(slot.run, slot.busy, slot.there) for slot in self.slots], ticket.order)
            if place is None:
                return
            self.waiting.remove(ticket)
            self.slots[place].busy = True
            serving = asyncio.create_task(self._serve(self.slots[place], ticket))
            self.serving.add(serving)
            serving.add_done_callback(self.serving.discard)

    async def _serve(self, slot: Slot, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()

        def on_event(event: Event | None) -> None:
            if event is not None:
                loop.call_soon_threadsafe(ticket.events.put_nowait, event)

        end = await loop.run_in_executor(self.threads, slot.train, ticket.order, on_event)
        ticket.events.put_nowait(end)
        slot.busy = False
        self._deal()

    def _check(self) -> None:
        if self.left.is_set():
            raise Interrupted(LEFT)

    async def _on_all(self, act: Callable[[Slot], Any]) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(self.slots)) as threads:  # its own, since those of the slots may be at work
            await asyncio.gather(*(loop.run_in_executor(threads, act, slot) for slot in self.slots))


class PoolClient:
    """The pool as other processes see it; may be sent to them."""

    def __init__(self, slots: Any) -> None:
        self.slots = slots

    def train(self, order: Order, on_event: OnEvent, check: Callable[[], None] = lambda: None) -> TaskDone:
        """Waits for an idle slot, has it train one task, and waits for that; `on_event` gets what happens, None at
        least every half second while nothing does. `order.job` names the run.

        `check` is called as often and may raise: then the caller leaves, and the slot finishes its task by itself.

        Raises:
            WorkersLost: the group broke; call again to go on. Interrupted: after `leave`. OrthoplexError: a worker gave
            up with a message for the user, a group failed for good, or the pool is gone.
        """
        import ray

        try:
            ticket = ray.get(self.slots.submit.remote(order))
            while True:
                event = ray.get(self.slots.next_event.remote(ticket, POLL_S))
                if isinstance(event, Failed) and event.exit_code == Interrupted.exit_code:
                    raise Interrupted(event.message)
                if done := outcome(event, on_event):
                    return done
                check()
        except ray.exceptions.RayError as error:
            raise TrainingError(f"the pool of workers is gone: {last_line(error)}") from error

    def leave(self) -> None:
        """Has the tasks in training kept, and `train` raise Interrupted to all its callers, now and later; returns when
        that is done, at most `cluster.grace_s` later."""
        import ray

        ray.get(self.slots.leave.remote())


class Pool:
    """`slots` worker groups, started at once and once. Use as a context manager inside a Ray session.

    They start without a job; `begin` gives them one, and from then on they serve every run whose model, layers and way
    to run are the same; see `trainers.workers.worker.fixed`. Meanwhile `model` is loaded into Ray's object store, once
    for all of them; None leaves that to each, as ZeRO 3 must, where no worker holds it whole. Its files are in
    `folder`, see `Job`.
    """

    def __init__(
        self, cluster: ClusterConfig, slots: int, model: ModelConfig | None = None, folder: str | None = None
    ) -> None:
        self.cluster, self.slots, self.model, self.model_folder = cluster, slots, model, folder

    def __enter__(self) -> Self:
        import ray

        self.folder = tempfile.TemporaryDirectory(prefix="orthoplex-pool-", ignore_cleanup_errors=True)
        made = ray.remote(num_cpus=0, scheduling_strategy=here())(Slots)
        self.actor: Any = made.remote(self.cluster, self.slots, self.folder.name)
        self.client = PoolClient(self.actor)
        self.actor.start.remote()
        # of no CPU, so that it never waits for those that workers hold while they wait for it
        self.base = ray.remote(num_cpus=0)(packed).remote(self.model, self.model_folder) if self.model else None
        return self

    def begin(self, job: Job) -> Job:
        """Gives the workers what they are to hold, before the first order, and once; the job as they got it, with the
        pool's base and its folder."""
        import ray

        job = replace(job, base=self.base, folder=self.model_folder)
        ray.get(self.actor.begin.remote(job))
        return job

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import ray

        with suppress(ray.exceptions.RayError):  # its end is the end of all it has started
            ray.get(self.actor.close.remote(at_once=kind is not None), timeout=2 * CLOSE_S)
        ray.kill(self.actor)
        reap_trainers(CLOSE_S)
        self.folder.cleanup()

    def leave(self) -> None:
        """As `PoolClient.leave`."""
        self.client.leave()


def packed(model: ModelConfig, folder: str | None = None) -> Any:
    """The base as `trainers.models.packed` takes it apart. What goes wrong is raised where the reference is read."""
    from trainers.folders import located
    from trainers.models.loading import load_backbone
    from trainers.models.packed import PackedBase

    return PackedBase.of(load_backbone(located(model, folder)))


def interrupted() -> Failed:
    """What callers are told after `leave`."""
    return Failed(LEFT, Interrupted.exit_code)


def choose(slots: Sequence[tuple[str, bool, bool]], order: Order) -> int | None:
    """The idle slot for an order, from each slot's (run it served last, busy, whether its workers are there); None
    where all are busy. One that holds the run's history comes first, then one whose workers need not start again."""
    run = order.job.run if order.job else None
    idle = [place for place, (_, busy, _) in enumerate(slots) if not busy]
    return min(idle, key=lambda place: (slots[place][0] != run, not slots[place][2]), default=None)
