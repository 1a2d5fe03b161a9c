"""What a run has taken: seconds, hours of GPUs, and money if its configuration says what an hour costs."""

from dataclasses import dataclass

from cluster.errors import ConfigError
from cluster.resources import ClusterConfig
from orchestrator.config.run import CostConfig
from orchestrator.log.entry import JsonLike
from orchestrator.track.state import RunState


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds of training and of evaluation, and the GPU-hours of both, 0 without GPUs. The start of workers and idle
    time are not in it."""

    train_s: float
    evaluate_s: float
    gpu_hours: float = 0.0
    price: CostConfig | None = None

    @property
    def money(self) -> float | None:
        """GPU-hours times their price; None without a price or GPUs."""
        return self.gpu_hours * self.price.gpu_hour if self.price and self.gpu_hours else None

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return {
            "train_s": self.train_s, "evaluate_s": self.evaluate_s, "gpu_hours": self.gpu_hours, "money": self.money,
            "currency": self.price.currency if self.price else None,
        }  # fmt: skip


def spent(state: RunState) -> Spent | None:
    """What the tasks that this run has trained have taken; None if it has trained none. Copies of a fork's source cost
    nothing."""
    costs = [(commit.version - 1, commit.cost) for commit in state.commits if commit.cost]
    if not costs:
        return None
    train_s, evaluate_s = (float(sum(getattr(cost, key) for _, cost in costs)) for key in ("train_s", "evaluate_s"))
    try:
        config = state.completed()
    except ConfigError:
        return Spent(train_s=train_s, evaluate_s=evaluate_s)
    clusters = [config.cluster.with_resources(task.resources) for task in config.tasks]
    hours = [
        gpus(clusters[index]) * float(cost.workers * cost.total_s) / 3600
        for index, cost in costs
        if index < len(clusters)
    ]
    return Spent(train_s=train_s, evaluate_s=evaluate_s, gpu_hours=sum(hours), price=config.cost)


def cost_of(state: RunState) -> float | None:
    """The money that the tasks so far have taken, 0 without GPUs; None without a price."""
    taken = spent(state)
    return taken.gpu_hours * taken.price.gpu_hour if taken and taken.price else None


def gpus(cluster: ClusterConfig) -> float:
    """The GPUs of a worker."""
    return float(cluster.gpus_per_worker) if cluster.use_gpu else 0.0
