"""The workers of a pool: groups of one size, as plain Ray actors.

A run's workers come from Ray Train (`group.fit`), which can give a run more or fewer of them as a cluster grows or
shrinks. For that it starts five processes per group, one after the other. A pool has many groups of fixed size, so it
does not need Ray Train. Both kinds take orders from a feed, and no other code depends on the kind.
"""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cluster.resources import ClusterConfig
from trainers.folders import scratch
from trainers.messages import Lost
from trainers.workers.group import last_line

RESTART_S = 1.0  # pause between two groups, so that a group that cannot start does not keep a node busy
PATIENCE = timedelta(minutes=30)  # how long a rank waits for the others, as in Ray Train


@dataclass(frozen=True)
class Place:
    """The location of a rank: its node, an address and a free port there, and the ids of its GPUs."""

    node: str
    host: str
    port: int
    gpus: tuple[str, ...]


class Rank:
    """Actor: one worker of a group."""

    def place(self) -> Place:
        """The location of this actor. The port is not reserved, but `work` follows soon enough."""
        import ray
        import torch  # noqa: F401

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids()["GPU"])
        return Place(context.get_node_id(), ray.util.get_node_ip_address(), port, gpus)

    def work(self, feed: Any, rank: int, places: Sequence[Place], meeting: str, folder: str) -> None:
        """Joins the others at `meeting`, and takes orders from the feed until the stream ends. Files are put below
        `folder` if it exists on this node."""
        import torch
        import torch.distributed as dist

        os.environ.update(environment(rank, places))
        gpus = places[rank].gpus
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) * len(gpus)) if gpus else torch.device("cpu")
        if gpus:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if gpus else "gloo", init_method=meeting, rank=rank, world_size=len(places), timeout=PATIENCE
        )
        from trainers.workers.worker import work

        with scratch(folder) as start:
            work(feed, device, start)


def serve(cluster: ClusterConfig, feed: Any, folder: str) -> None:
    """Keeps a group at work until the stream has ended. If a group breaks, the feed is told, and another is started."""
    from ray.util.placement_group import placement_group, remove_placement_group

    reserved = placement_group([cluster.worker_resources()] * cluster.num_workers.max)
    try:
        while lost := broken(cluster, reserved, feed, folder):
            feed.report.remote(lost)
            time.sleep(RESTART_S)
    finally:
        remove_placement_group(reserved)


def broken(cluster: ClusterConfig, reserved: Any, feed: Any, folder: str) -> Lost | None:
    """Starts a group in the placement group `reserved` and waits for its end. Returns why it broke, or None if the
    stream has ended."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from trainers.workers.meeting import meeting_in  # imports torch

    asked = cluster.worker_resources()
    made = ray.remote(num_cpus=asked["CPU"], num_gpus=asked.get("GPU", 0))(Rank)
    ranks = [
        made.options(scheduling_strategy=PlacementGroupSchedulingStrategy(reserved, bundle)).remote()
        for bundle in range(cluster.num_workers.max)
    ]
    number, places = 0, list[Place]()
    try:
        for place in [rank.place.remote() for rank in ranks]:
            number = len(places)
            places.append(ray.get(place))
        meeting = meeting_in(folder) or "env://"
        working = {rank.work.remote(feed, number, places, meeting, folder): number for number, rank in enumerate(ranks)}
        while working:
            (ended, *_), _ = ray.wait(list(working))
            number = working.pop(ended)
            ray.get(ended)
    except ray.exceptions.RayError as error:
        return Lost("workers", f"rank {number}: {last_line(error)}")
    finally:
        for rank in ranks:
            ray.kill(rank)
    return None


def environment(rank: int, places: Sequence[Place]) -> dict[str, str]:
    """The variables of `torchrun` for one rank. It sees the GPUs of all ranks on its node, in the order of ranks, since
    NCCL cannot connect them otherwise."""
    near = [other for other, place in enumerate(places) if place.node == places[rank].node]
    found = {
        "MASTER_ADDR": places[0].host, "MASTER_PORT": str(places[0].port),
        "RANK": str(rank), "WORLD_SIZE": str(len(places)),
        "LOCAL_RANK": str(near.index(rank)), "LOCAL_WORLD_SIZE": str(len(near)),
    }  # fmt: skip
    gpus = dict.fromkeys(gpu for other in near for gpu in places[other].gpus)
    return found | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
