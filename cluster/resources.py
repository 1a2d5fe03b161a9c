"""What a run asks of the cluster."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from cluster.schema import Frozen


class ClusterConfig(Frozen):
    """Workers of a run. `address` is a Ray address (`auto`, `host:6379`); null starts Ray on this machine.

    `cpus_per_worker` CPUs are reserved a worker, and one GPU with `use_gpu`. After a worker dies the group is started
    again from the last committed task, at most `max_failures` times.
    """

    num_workers: Annotated[int, Field(ge=1)] = 2
    use_gpu: bool = False
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    address: str | None = None
    max_failures: Annotated[int, Field(ge=0)] = 2

    def worker_resources(self) -> dict[str, Any]:
        """Ray resources of one worker."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1} if self.use_gpu else {})

    def shortage(self, available: Mapping[str, float]) -> str:
        """What all workers together need beyond `available` (Ray resource names to amounts); empty where they fit."""
        needed = {name: amount * self.num_workers for name, amount in self.worker_resources().items()}
        short = [
            f"{amount} {name}s, there are {available.get(name, 0):.0f}"
            for name, amount in needed.items()
            if amount > available.get(name, 0)
        ]
        return f"{self.num_workers} workers need {' and '.join(short)}" if short else ""
