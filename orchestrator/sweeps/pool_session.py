"""What a sweep starts before it knows what to train: a connection to Ray, and a pool of workers on their way."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module

from cluster.resources import gpu_memory
from cluster.session import ray_session
from orchestrator.run.signals import stop_signals
from orchestrator.run.workers import Check
from orchestrator.sweeps.capacity import session_cluster, sharing, slots
from orchestrator.sweeps.config import SweepConfig
from trainers.folders import for_workers, model_folder
from trainers.workers.pool import Pool

Say = Callable[[str], None]
IMPORTS = ("torch", "transformers.modeling_utils", "orchestrator.sweeps.tuning")  # of the model's check, and Tune


@dataclass(frozen=True, kw_only=True)
class Session:
    """`config` is the sweep as its trials share the cluster, `at_once` of them, since `began` (`time.monotonic`);
    `stop` raises Interrupted if the driver is told to leave."""

    config: SweepConfig
    at_once: int
    pool: Pool
    stop: Check
    began: float = field(default_factory=time.monotonic)


@contextmanager
def session(config: SweepConfig, say: Say) -> Iterator[Session]:
    """Starts both, and ends them. Raises ConfigError if the cluster or the run do not allow for it.

    What is needed next is imported while workers start, in this thread.
    """
    import ray

    folder = model_folder(config.run.model.name)
    with ray_session(session_cluster(config)), stop_signals(say) as stop:
        resources = ray.cluster_resources()
        config = sharing(config, gpu_memory, resources.get("GPU", 0))
        at_once = slots(config, resources)
        say(f"starting {at_once} worker group{'s' if at_once > 1 else ''}")
        run = config.trial(1, {})
        model = None if run.deepspeed.zero_stage == 3 else run.model
        with Pool(run.cluster, at_once, model, for_workers(folder)) as pool:
            for module in IMPORTS:
                import_module(module)
            yield Session(config=config, at_once=at_once, pool=pool, stop=stop)
        stop()


def imported_ahead(modules: Sequence[str]) -> threading.Thread:
    """Imports modules in a thread while something else is waited for, which saves seconds. An import that fails does so
    again when it is used."""

    def run() -> None:
        for module in modules:
            with suppress(Exception):
                import_module(module)

    thread = threading.Thread(target=run)
    thread.start()
    return thread
