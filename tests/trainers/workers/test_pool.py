"""A pool of two one-worker groups on Ray serves many runs; callers, workers and tasks come to grief meanwhile."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.errors import Interrupted, KeyAbsentError, OrthoplexError, TrainingError
from cluster.resources import ClusterConfig
from cluster.storage import Store, open_store
from tests.support.jobs_pair import MODEL, TASKS, WILD, job
from trainers.messages import Failed, Job, Order, Progress, Started, TaskDone
from trainers.methods.oa.files import ADAPTER_FILE, BASES_FILE
from trainers.models.loading import load_reader
from trainers.models.tokens import TokenIds, tokenize_task
from trainers.workers import pool as pool_module
from trainers.workers.group import WorkersLost
from trainers.workers.pool import Pool, Slot, Slots, choose

LONG = {"epochs": 5000, "checkpoint_steps": 2}
WAIT_S = 120.0


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "ray::Rank" in child.name()]


def until(condition: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@dataclass
class Setting:
    """A pool in a Ray session, and the store of its runs."""

    pool: Pool
    base: Job
    store: Store

    def job(self, run: str, **train: Any) -> Job:
        return replace(self.base, run=f"t/{run}", train=self.base.train.model_copy(update=train))

    def order(self, job: Job, history: list[TaskDone] | None = None) -> Order:
        done = history or []
        files = [tuple(self.store.get(f"{d.prefix}/{name}") for name in (ADAPTER_FILE, BASES_FILE)) for d in done]
        return Order(
            len(done), 1, f"v/{job.run}", tuple(map(ray.put, files)), tuple(digests(d) for d in done),
            f"c/{job.run}", {"run": job.run}, zero_shot=False, validation=range(len(done) + 1), test=(), job=job,
        )  # fmt: skip

    def ask(self, order: Order) -> tuple[TaskDone, list[Any]]:
        """A task, and what was told meanwhile."""
        events: list[Any] = []
        return self.pool.client.train(order, events.append), events

    def trained(self, job: Job) -> bool:
        """Whether it is known that the job has begun its first task: there is a checkpoint."""
        try:
            return bool(self.store.get(f"c/{job.run}"))
        except KeyAbsentError:
            return False


@ray.remote(num_cpus=0)
class Caller:
    """Another process that asks the pool."""

    def train(self, client: Any, order: Order) -> TaskDone | str:
        try:
            found: TaskDone = client.train(order, lambda _: None)
            return found
        except (WorkersLost, OrthoplexError) as error:
            return type(error).__name__


def digests(done: TaskDone) -> tuple[str, str]:
    sha256 = {record.path: record.sha256 for record in done.files}
    return sha256[ADAPTER_FILE], sha256[BASES_FILE]


@pytest.fixture(scope="module")
def setting(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    store = open_store(str(tmp_path_factory.mktemp("pool") / "store"))
    cluster = ClusterConfig(num_workers=1, grace_s=30)
    free = ray.cluster_resources()["CPU"]
    with Pool(cluster, 2, MODEL) as pool:
        tasks = tuple(ray.put(tokenize_task(load_reader(MODEL), task)) for task in TASKS)
        base = pool.begin(replace(job("t/start", store.uri, 2, {}), tasks=tasks))
        yield Setting(pool, base, store)
    assert not Path(pool.folder.name).exists()
    until(lambda: not workers() and ray.available_resources().get("CPU") == free)


def test_more_runs_than_slots_leave_what_each_would_alone(setting: Setting) -> None:
    """Three runs of equal settings: at least one of the first tasks comes after another's, and the second tasks on
    workers that hold the first or have to take it over."""
    jobs = [setting.job(name) for name in ("a", "b", "c")]
    callers = [Caller.remote() for _ in jobs]
    client = setting.pool.client
    first = ray.get([c.train.remote(client, setting.order(j)) for c, j in zip(callers, jobs, strict=True)])
    assert len({digests(done) for done in first}) == 1 and first[0].active_parameters
    assert [(len(done.validation), done.test, done.zero_shot) for done in first] == [(1, [], None)] * 3
    orders = [setting.order(j, [done]) for j, done in zip(jobs, first, strict=True)]
    second = ray.get([c.train.remote(client, order) for c, order in zip(callers, orders, strict=True)])
    assert len({digests(done) for done in second}) == 1 and [len(done.validation) for done in second] == [2] * 3
    assert digests(second[0]) != digests(first[0])


def test_a_caller_that_dies_leaves_its_slot_to_others(setting: Setting) -> None:
    """Both slots are taken by callers that die; their tasks end by themselves, and two more orders are served."""
    jobs = [setting.job(name, epochs=20, checkpoint_steps=2) for name in ("orphan1", "orphan2")]
    callers = [Caller.remote() for _ in jobs]
    for caller, each in zip(callers, jobs, strict=True):
        caller.train.remote(setting.pool.client, setting.order(each))
    until(lambda: all(map(setting.trained, jobs)))
    for caller in callers:
        ray.kill(caller)
    after = [Caller.remote() for _ in range(2)]
    asked = [c.train.remote(setting.pool.client, setting.order(setting.job(f"heir{n}"))) for n, c in enumerate(after)]
    assert len({digests(done) for done in ray.get(asked)}) == 1
    for each in jobs:
        assert any(key.endswith(ADAPTER_FILE) for key in setting.store.list(f"v/{each.run}/"))


def test_a_task_that_diverges_leaves_its_workers_fit_for_the_next(setting: Setting) -> None:
    expected, _ = setting.ask(setting.order(setting.job("tame")))
    wild = setting.job("same", **WILD)
    with pytest.raises(TrainingError, match="the loss is nan at step 2") as caught:
        setting.ask(setting.order(wild))
    assert caught.value.evidence["step"] == 2 and caught.value.exit_code == 1
    done, events = setting.ask(setting.order(setting.job("same")))  # the run's name leads to the same slot
    assert digests(done) == digests(expected)
    assert not any(isinstance(event, Started) for event in events)
    assert any(isinstance(event, Progress) for event in events)


def test_an_error_of_the_model_s_own_fails_its_task_at_once_and_nothing_else(setting: Setting) -> None:
    """Another order is served meanwhile, though the group that it broke starts again."""
    task = ray.get(setting.base.tasks[0])
    train = task.splits["train"]
    beyond = replace(train, token_ids=TokenIds.of([*list(train.token_ids)[:-1], [101, 10**6, 102]]))
    wrong = replace(task, splits={**task.splits, "train": beyond})
    job = replace(setting.job("wrong"), tasks=(ray.put(wrong), setting.base.tasks[1]))
    with pytest.raises(TrainingError) as caught:
        setting.ask(setting.order(job))
    said = r"task 'first': rank 0 failed in train step [123]: IndexError: index out of range in self \(transformers/"
    assert re.match(said, str(caught.value))
    assert "modeling_bert.py" in caught.value.evidence["traceback"]
    done, _ = setting.ask(setting.order(setting.job("right")))
    assert done.active_parameters


def test_a_job_for_other_workers_is_refused(setting: Setting) -> None:
    asked = replace(setting.base, model=MODEL.model_copy(update={"max_length": 32}))
    with pytest.raises(OrthoplexError, match="max_length: 32, but these workers were started with 16") as caught:
        setting.ask(setting.order(asked))
    assert caught.value.exit_code == 2


def test_a_worker_that_dies_costs_its_task_an_attempt(setting: Setting) -> None:
    """Both slots have trained before, so that neither starts late and is hit when the other has finished."""
    jobs = [setting.job(name, epochs=20, checkpoint_steps=2) for name in ("hit", "missed")]
    callers = [Caller.remote() for _ in jobs]
    ahead = [setting.order(setting.job(f"ahead-{number}")) for number in range(2)]
    ray.get([c.train.remote(setting.pool.client, order) for c, order in zip(callers, ahead, strict=True)])
    orders = [setting.order(each) for each in jobs]
    asked = [c.train.remote(setting.pool.client, order) for c, order in zip(callers, orders, strict=True)]
    until(lambda: all(map(setting.trained, jobs)))
    workers()[0].kill()
    ends = ray.get(asked)
    assert sorted(end if isinstance(end, str) else "done" for end in ends) == ["WorkersLost", "done"]
    hit = next(place for place, end in enumerate(ends) if end == "WorkersLost")
    done, events = setting.ask(orders[hit])
    assert digests(done) == digests(ends[1 - hit])
    assert any(isinstance(event, Progress) and event.phase == "resume" for event in events)


def test_leave_keeps_the_tasks_in_training(setting: Setting) -> None:
    """On both slots, of which one has had to start again; what was asked before and what is asked later ends alike."""
    jobs = [setting.job(name, **LONG) for name in ("kept1", "kept2")]
    callers = [Caller.remote() for _ in range(3)]
    asked = [c.train.remote(setting.pool.client, setting.order(each)) for c, each in zip(callers, jobs, strict=False)]
    until(lambda: all(map(setting.trained, jobs)))
    asked.append(callers[2].train.remote(setting.pool.client, setting.order(setting.job("waits"))))
    before = [setting.store.get(f"c/{each.run}") for each in jobs]
    setting.pool.leave()
    assert ray.get(asked) == ["Interrupted"] * 3
    assert all(setting.store.get(f"c/{each.run}") != data for each, data in zip(jobs, before, strict=True))
    with pytest.raises(Interrupted):
        setting.ask(setting.order(setting.job("late")))


# --- who gets a slot: no Ray needed


def order(run: str) -> Order:
    return Order(0, 1, "", (), (), "", {}, zero_shot=False, validation=(), test=(), job=job(run, "", 2, {}))


def test_an_order_goes_where_its_history_is_then_where_workers_are() -> None:
    asked = order("t/a")
    assert choose([("t/b", False, True), ("t/a", False, False)], asked) == 1
    assert choose([("t/b", False, False), ("t/a", True, True), ("t/c", False, True)], asked) == 2
    assert choose([("t/a", True, True)], asked) is None


class FakeSlot:
    """Trains until it is told to stop."""

    def __init__(self, *_: Any) -> None:
        self.run, self.busy, self.there, self.served = "", False, True, list[str]()
        self.go_on = threading.Event()

    def train(self, order: Order, on_event: Any) -> Failed:
        assert order.job is not None
        self.served.append(order.job.run)
        self.go_on.wait(WAIT_S)
        return Failed(order.job.run, 1)


def test_a_caller_that_dies_while_it_waits_gets_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "Slot", FakeSlot)
    monkeypatch.setattr(pool_module, "ABSENT_S", 0.2)

    async def story() -> None:
        slots = Slots(ClusterConfig(num_workers=1), 1, "")
        (slot,) = slots.slots
        first, dead, alive = [await slots.submit(order(run)) for run in ("t/first", "t/dead", "t/alive")]
        await asyncio.sleep(0.3)
        assert await slots.next_event(alive, 0.05) is None
        slot.go_on.set()  # type: ignore[attr-defined]
        event = None
        while event is None:
            event = await slots.next_event(alive, 0.05)
        assert event == Failed("t/alive", 1) and slot.served == ["t/first", "t/alive"]  # type: ignore[attr-defined]
        while (late := await slots.next_event(dead, 0.05)) is None:
            pass
        assert late == Failed("t/dead", 1)  # it was only slow
        assert await slots.next_event(first, 0.05) == Failed("t/first", 1)

    asyncio.run(story())


def test_a_group_that_is_gone_is_replaced_for_the_next_order(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class FakeGroup:
        def __init__(self, *_: Any) -> None:
            self.broken, self.there, self.ended = False, True, False

        def __enter__(self) -> "FakeGroup":
            time.sleep(0.1)
            made.append(self)
            return self

        def __exit__(self, *_: Any) -> None:
            self.ended = True

        def train(self, order: Order, on_event: Any) -> str:
            if len(made) == 1:
                self.broken = True
                raise TrainingError("cannot start")
            return "done"

    monkeypatch.setattr(pool_module, "WorkerGroup", FakeGroup)
    slot = Slot(ClusterConfig(num_workers=1), "", lambda: None)
    starting = threading.Thread(target=slot.start)
    starting.start()
    assert slot.train(order("t/a"), lambda _: None) == Failed("cannot start", 1) and len(made) == 1
    starting.join()
    assert made[0].ended and not slot.there
    assert slot.train(order("t/a"), lambda _: None) == "done" and len(made) == 2
