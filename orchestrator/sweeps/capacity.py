"""The capacity of a sweep: how many trials run at once, how they share GPUs, and whether its budget allows more.

Pure functions of the cluster's resources and the sweep's rows, but for the clock.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor

from cluster.errors import ConfigError
from cluster.resources import ClusterConfig, workers_per_gpu
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.space import Scalar
from orchestrator.sweeps.sweep_state import SweepState

MOST_PER_GPU = 8  # beyond it launches of kernels, not the GPU, are what trials wait for

Running = Mapping[int, Sequence[Row]]  # rows of trials by number


def session_cluster(config: SweepConfig) -> ClusterConfig:
    """The resources of a Ray that is started for the sweep: CPUs for all trials that are to run at once."""
    cluster = config.run.cluster
    workers = fixed_workers(cluster) * (config.concurrent or 1)
    return cluster if cluster.use_gpu else resized(cluster, workers)


def fixed_workers(cluster: ClusterConfig) -> int:
    """Workers of a trial. Raises ConfigError if their number may change: trials would not be comparable."""
    if cluster.num_workers.elastic:
        raise ConfigError(f"run.cluster.num_workers: {cluster.num_workers}: the trials of a sweep need one number")
    return cluster.num_workers.max


def sharing(config: SweepConfig, gpu_bytes: Callable[[], int | None], gpus: float = 1) -> SweepConfig:
    """The sweep with `run.cluster.gpus_per_worker` as its trials share the cluster's `gpus`: `trials_per_gpu`, or as
    many as are reckoned to fit into the memory of one (`gpu_bytes`), and no more than keep all of them at work. A
    fraction that the run asks for itself stands.

    Raises:
        ConfigError: trials of several workers are to share a GPU.
    """
    cluster, asked = config.run.cluster, config.trials_per_gpu
    if not cluster.use_gpu or cluster.gpus_per_worker != 1:
        return config
    if fixed_workers(cluster) > 1:
        if asked and asked > 1:
            raise ConfigError(
                f"trials_per_gpu: {asked}: trials of {cluster.num_workers} workers cannot share GPUs (NCCL refuses two "
                "ranks on one); set run.cluster.num_workers to 1, or trials_per_gpu to null"
            )
        return config
    wanted = min(each for each in (config.budget.trials, config.concurrent, MOST_PER_GPU * max(1, gpus)) if each)
    most = min(MOST_PER_GPU, ceil(wanted / max(1, gpus)))
    share = asked or max(1, min(most, workers_per_gpu(needed_bytes(config), gpu_bytes() or 0)))
    shared = cluster.model_copy(update={"gpus_per_worker": 1 / share})
    return config.model_copy(update={"run": config.run.model_copy(update={"cluster": shared})})


def slots(config: SweepConfig, resources: Mapping[str, float]) -> int:
    """Trials at once: `concurrent`, or as many as the cluster's resources hold, one at least; never more than there
    are to be. `resources` are Ray's, by name."""
    each = config.run.cluster.worker_resources()
    workers = fixed_workers(config.run.cluster)
    hold = min(floor(resources.get(name, 0) / (amount * workers) + 1e-6) for name, amount in each.items())
    wanted = config.concurrent or max(1, hold)
    return min(wanted, config.budget.trials or wanted)


def needed_bytes(config: SweepConfig) -> int:
    """Memory that the largest trial of the space is reckoned to need on a GPU, see `plan.worker_memory`."""
    from orchestrator.run.plan import worker_memory
    from trainers.methods.registry import check_method
    from trainers.models.capabilities import Shape

    tops = {key: p.ends()[-1] for key, p in config.search.space.items() if p.kind != "choice"}
    choices = {key: p.bounds for key, p in config.search.space.items() if p.kind == "choice"}
    tops |= {key: max(found) for key, values in choices.items() if len(found := _numbers(values)) == len(values)}
    sizes = ("adapter.max_rank", "adapter.rank", "train.batch_size")
    large = {key: value for key, value in tops.items() if key in sizes or key.endswith(".training.batch_size")}
    run = config.trial(1, large)
    model, method = check_method(run.model, run.adapter, run.train)
    base = sum(parameter.numel() for parameter in model.parameters())
    memory = worker_memory(run, Shape.of(model), base, method.footprint(len(run.tasks)))
    return sum(size for cause, size in memory.items() if cause not in ("process", "originals"))


def resized(cluster: ClusterConfig, workers: int) -> ClusterConfig:
    """The same with another number of workers."""
    return ClusterConfig.model_validate({**cluster.model_dump(), "num_workers": workers})


def _numbers(values: Sequence[Scalar]) -> list[float]:
    return [value for value in values if isinstance(value, int | float)]


def spent(config: SweepConfig, state: SweepState, running: Running, began: float | None = None) -> str | None:
    """The reason why the budget allows no more, None if it does. `running` holds the rows of trials that the log does
    not have yet. `began` is when this start began to train, by the monotonic clock."""
    budget, used = config.budget, gpu_hours(state, running)
    if budget.gpu_hours is not None and used >= budget.gpu_hours:
        return f"{used:.2f} GPU-hours are spent (budget.gpu_hours {budget.gpu_hours:g})"
    if budget.hours is not None and began is not None and time.monotonic() - began >= 3600 * budget.hours:
        return f"the time is up (budget.hours {budget.hours:g})"
    return None


def gpu_hours(state: SweepState, running: Running) -> float:
    """Σ over trials of (training + evaluation time) · GPUs, in hours."""
    rows = {trial.number: trial.rows for trial in state.trials} | dict(running)
    return sum((own[-1].train_s + own[-1].evaluate_s) * own[-1].gpus for own in rows.values() if own) / 3600
