"""What a run asks of the cluster."""

import math
import subprocess
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from cluster.schema import Frozen

Count = Annotated[int, Field(ge=1)]
RAY_STEP = 10_000  # Ray counts resources in ten-thousandths, and rounds
CONTEXT_BYTES = 512 << 20  # GPU memory that CUDA itself takes per process
USABLE = 0.95  # share of a GPU's memory that workers may fill


def _as_gpus(value: float) -> float:
    """Part of one GPU, or whole GPUs."""
    if value > 1 and value % 1:
        raise ValueError(
            f"{value:g}: is more than one GPU but not whole; use {math.floor(value)} or {math.ceil(value)}"
        )
    return value


Gpus = Annotated[float, Field(ge=0.01), AfterValidator(_as_gpus)]


class WorkerRange(Frozen):
    """Between `min` and `max` workers. If nodes are lost, a run goes on with fewer, and grows again later."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _ordered(self) -> "WorkerRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; lower min")
        return self

    @property
    def elastic(self) -> bool:
        """Whether the number may change while a run goes on."""
        return self.min < self.max

    def __str__(self) -> str:
        return f"{self.min} to {self.max}" if self.elastic else str(self.max)


def _as_range(value: Any) -> Any:
    """A whole number n as the range from n to n."""
    if isinstance(value, bool) or not isinstance(value, int | Mapping | WorkerRange):
        raise ValueError("should be a whole number, or a range as in {min: 1, max: 4}")
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{value}: should be at least 1")
    return {"min": value, "max": value} if isinstance(value, int) else value


def _as_given(value: WorkerRange) -> Any:
    return {"min": value.min, "max": value.max} if value.elastic else value.max


Workers = Annotated[WorkerRange, BeforeValidator(_as_range), PlainSerializer(_as_given)]


class TaskResources(Frozen):
    """What one task needs if it differs from the run: keys as in ClusterConfig; null is the run's own value."""

    num_workers: Workers | None = None
    use_gpu: bool | None = None
    cpus_per_worker: Count | None = None
    gpus_per_worker: Gpus | None = None


class ClusterConfig(Frozen):
    """Workers of a run. `address` is a Ray address (`auto`, `host:6379`); null starts Ray on this machine.

    `cpus_per_worker` CPUs are reserved per worker, and with `use_gpu` also `gpus_per_worker` GPUs. With a fraction,
    several runs of one worker each share a GPU. After a failure the task in training is tried again, at most
    `max_failures` times in a row. A driver that is told to stop has `grace_s` seconds to store a checkpoint of the task
    in training. A driver that is silent for `lease_s` seconds may be replaced by another.
    """

    num_workers: Annotated[Workers, Field(validate_default=True)] = 2  # type: ignore[assignment]
    use_gpu: bool = False
    cpus_per_worker: Count = 1
    gpus_per_worker: Gpus = 1
    address: str | None = None
    max_failures: Annotated[int, Field(ge=0)] = 2
    grace_s: Annotated[float, Field(ge=0)] = 20
    lease_s: Annotated[float, Field(ge=2)] = 120

    @model_validator(mode="after")
    def _fits_together(self) -> "ClusterConfig":
        return self.checked()

    def checked(self) -> "ClusterConfig":
        """The configuration itself. Raises ValueError if one key excludes another."""
        if self.use_gpu and self.gpus_per_worker < 1 and self.num_workers.max > 1:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g} lets the {self.num_workers} workers of a run share a GPU, "
                "which NCCL refuses; set num_workers to 1, or gpus_per_worker to 1"
            )
        return self

    def with_resources(self, asked: TaskResources | None) -> "ClusterConfig":
        """The configuration with the values that a task asks for.

        Raises:
            ValueError: these values exclude others of the configuration.
        """
        own = self.model_copy(update={key: value for key, value in (asked or ()) if value is not None})
        return own.checked()

    def worker_resources(self) -> dict[str, Any]:
        """Ray resources of one worker; parts of a GPU are rounded down, so that n workers with 1 / n each fit."""
        gpus = math.floor(self.gpus_per_worker * RAY_STEP + 1e-6) / RAY_STEP
        return {"CPU": self.cpus_per_worker} | ({"GPU": gpus if gpus % 1 else int(gpus)} if self.use_gpu else {})

    def shortage(self, available: Mapping[str, float]) -> str:
        """What the fewest workers need beyond `available` (Ray resource names to amounts); empty if they fit."""
        short = [
            f"{amount} {name}s, there are {available.get(name, 0):.0f}"
            for name, amount in self.needed().items()
            if amount > available.get(name, 0)
        ]
        return f"{self.num_workers.min} workers need {' and '.join(short)}" if short else ""

    def needed(self) -> dict[str, Any]:
        """Ray resources of the fewest workers together."""
        return {name: amount * self.num_workers.min for name, amount in self.worker_resources().items()}

    def awaited(self, total: Mapping[str, float], available: Mapping[str, float], reserved: Mapping[str, float]) -> str:
        """What workers that have not started are waiting for: resources, if others leave too few, else their own start.

        Args:
            total: what the cluster has (Ray resource names to amounts, here and below).
            available: what nobody holds.
            reserved: what this driver's own placement groups hold, for these workers.
        """
        left = {name: available.get(name, 0) + reserved.get(name, 0) for name in self.needed()}
        if short := self.shortage(left):
            taken = {name: total.get(name, 0) - amount for name, amount in left.items()}
            others = " and ".join(f"{amount:g} {name}s" for name, amount in taken.items() if amount > 0)
            return f"{short}; others hold {others}" if others else short
        if any(amount > reserved.get(name, 0) for name, amount in self.needed().items()):
            return "there is room for them; Ray is about to reserve it"
        return "their room is reserved; they start, import what trains, and load the model"


def workers_per_gpu(worker_bytes: int, gpu_bytes: int) -> int:
    """The number of workers that fit on one GPU: ⌊95% of its memory / (what one allocates + CUDA's own half GiB)⌋.

    0 if not even one fits. `gpus_per_worker` is then the reciprocal.

    Args:
        worker_bytes: weights, adapters and activations of one worker at its peak.
        gpu_bytes: the GPU's memory, see `gpu_memory`.
    """
    return int(USABLE * gpu_bytes // (worker_bytes + CONTEXT_BYTES))


def gpu_memory() -> int | None:
    """Bytes of memory of the smallest GPU among the nodes of the connected Ray cluster; None if it has no GPU.

    Asks each node that has one, through a task that reserves nothing.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    ask = ray.remote(num_cpus=0, max_retries=0)(smallest_gpu_bytes)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    return min((found for found in ray.get(asked) if found), default=None)


def smallest_gpu_bytes() -> int:
    """Bytes of memory of this machine's smallest NVIDIA GPU; 0 if its driver shows none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return min((int(line) << 20 for line in done.stdout.split() if line.isdecimal()), default=0)
