"""Workers that are plain actors: what they leave is what Ray Train's leave, and a group that breaks is replaced."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from cluster.errors import KeyAbsentError
from cluster.resources import ClusterConfig
from cluster.session import reap_trainers
from cluster.storage import Store, open_store
from tests.support.jobs_pair import TASKS, job
from tests.support.sockets import exposed, listening
from tests.trainers.workers.test_pool import digests, until, workers
from trainers.messages import Job, Order, Progress, Started
from trainers.workers.group import WorkerGroup, WorkersLost, fit
from trainers.workers.ranks import Place, environment, serve

CLUSTER = ClusterConfig(num_workers=2)


@pytest.fixture(scope="module")
def base(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job with its data in Ray."""
    uri = open_store(str(tmp_path_factory.mktemp("ranks") / "store")).uri
    yield replace(job("t/base", uri, 2, {}, epochs=12, checkpoint_steps=2), tasks=tuple(map(ray.put, TASKS)))
    reap_trainers(10)
    until(lambda: not workers() and ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


def order_of(base: Job, run: str) -> Order:
    return Order(
        0, 1, f"v/{run}", (), (), f"c/{run}", {"run": run}, zero_shot=False, validation=(0,), test=(),
        job=replace(base, run=f"t/{run}"),
    )  # fmt: skip


def begun(store: Store, run: str) -> bool:
    try:
        return bool(store.get(f"c/{run}"))
    except KeyAbsentError:
        return False


def test_two_ranks_leave_what_ray_train_s_leave_and_are_replaced(base: Job) -> None:
    """Neither kind, nor the Ray that both run on, listens where another machine could reach it."""
    store = open_store(base.store_uri)

    def trained(group: WorkerGroup, name: str) -> tuple[str, str]:
        events, reached = list[object](), dict[str, str]()

        def seen(event: object) -> None:
            events.append(event)
            if isinstance(event, Started):  # all ranks have met
                reached.update(listening())

        found = digests(group.train(order_of(base, name), seen))
        assert [event.workers for event in events if isinstance(event, Started)] == [2]
        assert len(reached) > 8 and exposed(reached) == {}
        return found

    def kill_one(event: object) -> None:
        if isinstance(event, Progress) and begun(store, "hit") and workers():
            workers()[0].kill()

    with WorkerGroup(base, CLUSTER, serve=fit) as group:
        expected = trained(group, "train")
    with WorkerGroup(base, CLUSTER, serve=serve) as group:
        assert trained(group, "ranks") == expected
        order = order_of(base, "hit")
        with pytest.raises(WorkersLost, match=r"rank [01]: "):
            group.train(order, kill_one)
        events: list[object] = []
        assert digests(group.train(order, events.append)) == expected
        assert any(isinstance(event, Progress) and event.phase == "resume" for event in events)


def test_ranks_see_the_gpus_of_their_node_in_their_order() -> None:
    places = [Place("b", "10.0.0.2", 5, ("3",)), Place("a", "10.0.0.1", 6, ("1",)), Place("b", "10.0.0.2", 7, ("0",))]
    assert environment(2, places) == {
        "MASTER_ADDR": "10.0.0.2", "MASTER_PORT": "5", "RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "3,0",
    }  # fmt: skip
    assert environment(1, places)["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in environment(0, [Place("a", "h", 1, ())])


def test_files_go_below_the_folder(base: Job, tmp_path: Path) -> None:
    with WorkerGroup(base, ClusterConfig(num_workers=1), folder=str(tmp_path), serve=serve) as group:
        group.train(order_of(base, "alone"), lambda _: None)
        assert [path.name for path in tmp_path.glob("*/orthoplex-*-rank-*")]
    assert not list(tmp_path.iterdir())
