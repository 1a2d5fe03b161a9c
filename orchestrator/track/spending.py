"""What a run has taken: seconds, hours of GPUs, money if its configuration says what an hour costs, and operations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.resources import ClusterConfig
from orchestrator.config.run import CostConfig, RunConfig
from orchestrator.log.entry import JsonLike
from orchestrator.track.events import Cost
from orchestrator.track.state import RunState

LARGE_CHANGE = 1 / 3  # of a base's training compute, above which who changes it becomes a provider, see `Spent.share`


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds of training and of evaluation, and the GPU-hours of both, 0 without GPUs. The start of workers and idle
    time are not in it. `flops` are the operations of training, see `training_flops`; None if they are not known."""

    train_s: float
    evaluate_s: float
    gpu_hours: float = 0.0
    flops: float | None = None
    price: CostConfig | None = None

    @property
    def money(self) -> float | None:
        """GPU-hours times their price; None without a price or GPUs."""
        price = self.price.gpu_hour if self.price else None
        return self.gpu_hours * price if price is not None and self.gpu_hours else None

    @property
    def currency(self) -> str | None:
        """That of `money`; None without a price."""
        return self.price.currency if self.price and self.price.gpu_hour is not None else None

    @property
    def share(self) -> float | None:
        """`flops` as a share of a third of the base's own training (`cost.base_flops`); None if either is not known.

        Above 1, the European Commission's guidelines of 18 July 2025 on general-purpose models take whoever modified
        the model for the provider of a new one. They count all operations of the modification; here those of training
        steps are counted alone.
        """
        base = self.price.base_flops if self.price else None
        return self.flops / (LARGE_CHANGE * base) if self.flops is not None and base else None

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return {
            "train_s": self.train_s, "evaluate_s": self.evaluate_s, "gpu_hours": self.gpu_hours, "money": self.money,
            "currency": self.currency,
        }  # fmt: skip


def spent(state: RunState) -> Spent | None:
    """What the tasks that this run has trained have taken; None if it has trained none. Copies of a fork's source cost
    nothing."""
    each = [*spent_by_version(state).values()]
    if not each:
        return None
    flops = [found.flops for found in each if found.flops is not None]
    return Spent(
        train_s=float(sum(found.train_s for found in each)),
        evaluate_s=float(sum(found.evaluate_s for found in each)),
        gpu_hours=sum(found.gpu_hours for found in each),
        flops=sum(flops) if len(flops) == len(each) else None,
        price=each[0].price,
    )


def spent_by_version(state: RunState) -> Mapping[int, Spent]:
    """What each version took, by number; copies of a fork's source are left out."""
    config = state.readable_config()
    costs = ((commit.version, commit.cost) for commit in state.commits if commit.cost)
    return {version: spent_on(config, version - 1, cost) for version, cost in costs}


def spent_on(config: RunConfig | None, index: int, cost: Cost) -> Spent:
    """What task `index` took. Without a configuration, or a task of that number in it, its GPUs are not known."""
    seconds = Spent(train_s=float(cost.train_s), evaluate_s=float(cost.evaluate_s))
    if config is None:
        return seconds
    hours = 0.0
    if index < len(config.tasks):
        cluster = config.cluster.with_resources(config.tasks[index].resources)
        hours = gpus(cluster) * float(cost.workers * cost.total_s) / 3600
    return replace(seconds, gpu_hours=hours, flops=training_flops(config, cost), price=config.cost)


def training_flops(config: RunConfig, cost: Cost) -> float | None:
    """C = D · ((4 + 2c) · N + 2k · n), the floating-point operations of a task's training steps; None if its commit
    does not hold the counts, as older ones.

    D are the tokens that were trained on, in all passes together; N the parameters of the base, n those that were
    trained. A product with a weight takes two operations per token and parameter: one such product forwards (2N), one
    back to what the layer read (2N), and with gradient checkpointing (c = 1) one that is computed again (2N). Frozen
    weights need no gradient of their own. Trained ones need it, k = 1, and if they stand beside the base the other two
    products as well, k = 3.

    It is the estimate of Kaplan et al. (arXiv:2001.08361), 6 · N · D if all is trained. As there, embeddings count as
    products and those of attention scores are left out. So are padding, evaluation, and what is read before and after
    training for second moments.
    """
    counts = (cost.tokens, cost.base_parameters, cost.trained_parameters)
    if None in counts:
        return None
    tokens, base, trained = (count or 0 for count in counts)
    again = 2 * config.train.gradient_checkpointing
    own = 2 if config.adapter.trains_base else 6
    return float(tokens) * ((4 + again) * base + own * trained)


def cost_of(state: RunState) -> float | None:
    """The money that the tasks so far have taken, 0 without GPUs; None without a price."""
    taken = spent(state)
    price = taken.price.gpu_hour if taken and taken.price else None
    return taken.gpu_hours * price if taken and price is not None else None


def gpus(cluster: ClusterConfig) -> float:
    """The GPUs of a worker."""
    return float(cluster.gpus_per_worker) if cluster.use_gpu else 0.0
