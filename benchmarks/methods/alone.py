"""The workers of a run as this process alone: the real worker's code, controller and store, without Ray.

Ray costs 20 to 40 CPU-seconds and 1.5 GiB per run, which is more than a short stream takes on a GPU. Everything that
trains, stores and scores is what `orthoplex run` uses on one worker.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.resources import ClusterConfig
from orchestrator.config.run import RunConfig
from orchestrator.run.workers import Check, Group, OwnWorkers, Say
from trainers.folders import scratch
from trainers.messages import Job, Order, Progress, Started, TaskDone
from trainers.workers.worker import Worker

OnEvent = Callable[[Started | Progress | None], None]


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A process group of this process alone, as a worker needs one."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


class AloneWorkers(OwnWorkers):
    """See `orchestrator.run.workers.Workers`."""

    def __init__(self, config: RunConfig, say: Say, device: torch.device) -> None:
        super().__init__(config, say)
        self.device = device

    @contextmanager
    def session(self) -> Iterator[Check]:
        """Nothing is connected to; whoever started this process ends it."""
        self.rows = tuple(self.tasks)
        yield lambda: None

    def share(self, files: tuple[bytes, ...]) -> Any:
        """The files themselves."""
        return files

    @contextmanager
    def group(self, job: Job, cluster: ClusterConfig, check: Check) -> Iterator[Group]:
        """This process, in a temporary folder of its own."""
        held = replace(job, tasks=self.rows, folder=str(self.folder) if self.folder else None)
        with scratch(tempfile.gettempdir()) as start:
            yield AloneGroup(held, cluster, self.device, start, check)


class AloneGroup:
    """This process as a worker group; see `orchestrator.run.workers.Group`."""

    def __init__(self, job: Job, cluster: ClusterConfig, device: torch.device, start: Path, check: Check) -> None:
        self.job, self.cluster, self.device, self.start, self.check = job, cluster, device, start, check
        self.worker: Worker | None = None

    def train(self, order: Order, on_event: OnEvent) -> TaskDone:
        """Trains a task; what a worker raises is raised."""

        def report(event: Any) -> None:
            self.check()
            on_event(event)

        if self.worker is None:
            self.worker = Worker(self.job, self.device, report, start=self.start)
        self.worker.report = report
        self.worker.catch_up(order)
        return self.worker.run(order)
