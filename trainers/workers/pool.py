"""A pool of started worker groups that serves many runs, since starting a group costs 40 CPU-seconds.

One actor holds the groups and gives them orders. A caller in any process asks for a task with `PoolClient.train` and
waits for its end. It holds nothing that would have to be given back. A caller that dies while it waits for a group is
skipped; if it dies later, its task ends by itself.
"""

import asyncio
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
from cluster.temporary import temporary
from trainers.config import ModelConfig
from trainers.messages import Event, Failed, Job, Lost, Order, TaskDone, Watched
from trainers.workers.group import CLOSE_S, POLL_S, OnEvent, WorkerGroup, WorkersLost, last_line, outcome
from trainers.workers.ranks import serve

REAP_S = 5.0  # period in which a group that waits for resources frees those of dead groups
ABSENT_S = 30.0  # a caller that has not asked for that long gets no slot; a live one asks every half second
FORGOTTEN_S = 600.0  # a ticket that nobody has asked about for that long is dropped
LEFT = "the pool of workers was told to leave"


@dataclass
class Ticket:
    """One order in the pool: what has happened to it, and when its caller last asked."""

    order: Order
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    asked: float = field(default_factory=time.monotonic)

    def silent_s(self) -> float:
        """Seconds since its caller last asked."""
        return time.monotonic() - self.asked


class Slot:
    """One worker group, driven from one thread. It is replaced if it is of no more use."""

    def __init__(self, cluster: ClusterConfig, folder: str, check: Callable[[], None]) -> None:
        self.cluster, self.folder, self.check = cluster, folder, check
        self.job: Job | None = None
        self.group: WorkerGroup | None = None
        self.lock = threading.Lock()  # the first order may come while the pool starts the group
        self.run, self.busy = "", False

    def start(self) -> WorkerGroup:
        """The group; begins to start it if there is none."""
        with self.lock:
            if self.group is None:
                self.group = WorkerGroup(self.job, self.cluster, self.check, self.folder, serve).__enter__()
            return self.group

    def begin(self, job: Job) -> None:
        """Gives the group, and those that replace it, their job."""
        with self.lock:
            self.job = job
            if self.group is not None:
                self.group.begin(job)

    @property
    def there(self) -> bool:
        """Whether its workers have started."""
        return self.group is not None and self.group.there

    def train(self, order: Order, on_event: OnEvent) -> TaskDone | Lost | Failed:
        """Has the group train one task and waits for it; returns how it ended."""
        self.run = order.job.run if order.job else ""
        look_at = time.monotonic() + REAP_S

        def told(event: Watched | None) -> None:
            nonlocal look_at
            if event is None and not self.there and time.monotonic() > look_at:
                reap()  # a dead group may still hold the resources that this one waits for
                look_at = time.monotonic() + REAP_S
            on_event(event)

        try:
            return self.start().train(order, told)
        except WorkersLost as error:
            return error.lost
        except OrthoplexError as error:
            return Failed(str(error), error.exit_code, error.evidence)
        except Exception as error:
            return Failed(f"the pool failed: {last_line(error)}", TrainingError.exit_code)
        finally:
            if self.group is None or self.group.broken:
                self.end(at_once=True)

    def end(self, *, at_once: bool) -> None:
        """Ends the group, at once or after its workers have left."""
        import ray

        with self.lock:
            group, self.group = self.group, None
        error = Interrupted(LEFT) if at_once else None
        if group is not None:
            with suppress(ray.exceptions.RayError):
                group.__exit__(type(error) if error else None, error, None)


class Slots:
    """Actor: the slots, and the callers that wait for one."""

    def __init__(self, cluster: ClusterConfig, slots: int, folder: str) -> None:
        self.left = threading.Event()
        self.slots = [Slot(cluster, folder, self._check) for _ in range(slots)]
        self.threads = ThreadPoolExecutor(slots)
        self.tickets: dict[str, Ticket] = {}
        self.waiting: list[Ticket] = []
        self.serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to start all groups. Orders may be given before they have started."""
        await self._on_all(Slot.start)

    async def begin(self, job: Job) -> None:
        """Gives all groups their job."""
        await self._on_all(lambda slot: slot.begin(job))

    async def close(self, at_once: bool) -> None:
        """Ends all groups; busy ones at once."""
        self._turn_away()
        await self._on_all(lambda slot: slot.end(at_once=at_once or slot.busy))

    async def submit(self, order: Order) -> str:
        """Takes an order; returns its ticket."""
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
        """Gives no more orders, and has checkpoints of the tasks in training stored. Returns when that is done, or
        after `grace_s`."""
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
    """The pool as other processes use it; may be sent to them."""

    def __init__(self, slots: Any) -> None:
        self.slots = slots

    def train(self, order: Order, on_event: OnEvent, check: Callable[[], None] = lambda: None) -> TaskDone:
        """Waits for an idle slot, has it train one task, and waits for its end. `on_event` gets every event, and None
        at least every half second while there is none. `order.job` names the run.

        `check` is called as often. If it raises, the caller leaves, and the slot finishes its task by itself.

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
        """Has checkpoints of the tasks in training stored; `train` raises Interrupted to all callers from now on.
        Returns when that is done, at most `cluster.grace_s` later."""
        import ray

        ray.get(self.slots.leave.remote())


class Pool:
    """`slots` worker groups, started once and all at the same time. Use as a context manager inside a Ray session.

    They start without a job. `begin` gives them one, and from then on they serve every run whose settings agree in
    `trainers.workers.worker.fixed`. Meanwhile `model` is loaded into Ray's object store, once for all of them. If it is
    None, each worker loads it, as ZeRO 3 must, since no worker holds the whole model. Its files are in `folder`, see
    `Job`.
    """

    def __init__(
        self, cluster: ClusterConfig, slots: int, model: ModelConfig | None = None, folder: str | None = None
    ) -> None:
        self.cluster, self.slots, self.model, self.model_folder = cluster, slots, model, folder

    def __enter__(self) -> Self:
        import ray

        self.folder = temporary("pool")
        made = ray.remote(num_cpus=0, scheduling_strategy=here())(Slots)
        self.actor: Any = made.remote(self.cluster, self.slots, self.folder.name)
        self.client = PoolClient(self.actor)
        self.actor.start.remote()
        # needs no CPU, so that it never waits for CPUs of workers that wait for it
        self.base = ray.remote(num_cpus=0)(packed).remote(self.model, self.model_folder) if self.model else None
        return self

    def begin(self, job: Job) -> Job:
        """Gives the workers their job. Call it once, before the first order. Returns the job as they get it, with the
        pool's base and its folder."""
        import ray

        job = replace(job, base=self.base, folder=self.model_folder)
        ray.get(self.actor.begin.remote(job))
        return job

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import ray

        with suppress(ray.exceptions.RayError):  # when the actor ends, all that it has started ends
            ray.get(self.actor.close.remote(at_once=kind is not None), timeout=2 * CLOSE_S)
        ray.kill(self.actor)
        reap_trainers(CLOSE_S)
        self.folder.cleanup()

    def leave(self) -> None:
        """As `PoolClient.leave`."""
        self.client.leave()


def packed(model: ModelConfig, folder: str | None = None) -> Any:
    """The base, packed by `trainers.models.packed`. Errors are raised when the reference is read."""
    from trainers.folders import located
    from trainers.models.loading import load_backbone
    from trainers.models.packed import PackedBase

    return PackedBase.of(load_backbone(located(model, folder)))


def interrupted() -> Failed:
    """The event that callers get after `leave`."""
    return Failed(LEFT, Interrupted.exit_code)


def choose(slots: Sequence[tuple[str, bool, bool]], order: Order) -> int | None:
    """The place of the idle slot for an order; None if all are busy. Each slot is (run it served last, whether it is
    busy, whether its workers have started). A slot that holds the run's history comes first, then one whose workers
    have started."""
    run = order.job.run if order.job else None
    idle = [place for place, (_, busy, _) in enumerate(slots) if not busy]
    return min(idle, key=lambda place: (slots[place][0] != run, not slots[place][2]), default=None)
