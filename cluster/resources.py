"""What a run asks of the cluster."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from cluster.schema import Frozen

Count = Annotated[int, Field(ge=1)]


class WorkerRange(Frozen):
    """Between `min` and `max` workers. A run goes on with fewer where nodes are lost, and grows again."""

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
    """Where one task needs other workers than the run: keys as in ClusterConfig; null is the run's own value."""

    num_workers: Workers | None = None
    use_gpu: bool | None = None
    cpus_per_worker: Count | None = None


class ClusterConfig(Frozen):
    """Workers of a run. `address` is a Ray address (`auto`, `host:6379`); null starts Ray on this machine.

    `cpus_per_worker` CPUs are reserved a worker, and one GPU with `use_gpu`. After a failure the task in training is
    tried again, at most `max_failures` times in a row. A driver told to stop has `grace_s` seconds to keep the task in
    training; one that is silent for `lease_s` seconds may be replaced by another.
    """

    num_workers: Annotated[Workers, Field(validate_default=True)] = 2  # type: ignore[assignment]
    use_gpu: bool = False
    cpus_per_worker: Count = 1
    address: str | None = None
    max_failures: Annotated[int, Field(ge=0)] = 2
    grace_s: Annotated[float, Field(ge=0)] = 20
    lease_s: Annotated[float, Field(ge=5)] = 120

    def with_resources(self, asked: TaskResources | None) -> "ClusterConfig":
        """The same with what a task asks for."""
        return self.model_copy(update={key: value for key, value in (asked or ()) if value is not None})

    def worker_resources(self) -> dict[str, Any]:
        """Ray resources of one worker."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1} if self.use_gpu else {})

    def shortage(self, available: Mapping[str, float]) -> str:
        """What the fewest workers together need beyond `available` (Ray resource names to amounts); empty where they
        fit."""
        fewest = self.num_workers.min
        needed = {name: amount * fewest for name, amount in self.worker_resources().items()}
        short = [
            f"{amount} {name}s, there are {available.get(name, 0):.0f}"
            for name, amount in needed.items()
            if amount > available.get(name, 0)
        ]
        return f"{fewest} workers need {' and '.join(short)}" if short else ""
