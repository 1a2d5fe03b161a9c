"""A prediction by several processes: `orthoplex predict --workers N`, through Ray Data.

    a task on this node reads rows → a block per missing part → N actors, each with the base → this process keeps parts

Ray Data holds reading back while all actors are busy, so that memory does not grow with the rows. A part is answered as
one process answers it, and is kept under the same name, so that a prediction may go on with any number of processes.
"""

import logging
import os
import pickle
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from cluster import errors
from cluster.errors import ConfigError, TrainingError
from cluster.resources import RAY_STEP, ClusterConfig
from cluster.session import debugging, ray_session
from orchestrator.delivery.predicting import Counted, Done, Part, Predicting, Told

if TYPE_CHECKING:
    import pyarrow as pa

    from orchestrator.delivery.predictor import Predictor

WAITING = 2  # parts of an actor, with the one that it answers


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a process loads: a version in a store, which it must reach, with the arguments `how` of `Predictor`."""

    reference: str
    store: str
    how: Mapping[str, Any]

    def __call__(self) -> "Predictor":
        """The version in its base."""
        from orchestrator.delivery.predictor import Predictor

        return Predictor(self.reference, store=self.store, say=nobody, **self.how)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """`workers` processes on the Ray cluster at `address`, or on that of $RAY_ADDRESS, or else on this machine; on GPUs
    if the cluster has some, unless `device` is cpu."""

    workers: int
    address: str | None = None
    device: str | None = None

    def run(self, work: Predicting, opening: "Callable[[], Predictor]", told: Told = lambda *_: None) -> Done:
        """As `Predicting.run`, with no more processes than parts are missing. Raises TrainingError if one fails."""
        with ExitStack() as stack:

            def found(there: Container[int], done: Counted) -> Iterator[Part]:
                needed = sum(1 for _ in islice(work.missing(there), self.workers))
                if needed:
                    cluster = ClusterConfig(address=self.address, num_workers=needed)  # type: ignore[arg-type]
                    stack.enter_context(python_alone_on_stderr())
                    stack.enter_context(ray_session(cluster))
                    stack.enter_context(quiet())
                    done(0)
                    yield from answered(work, opening, there, workers=needed, device=self.device)

            return work.filled(found, told)


def answered(
    work: Predicting, opening: "Callable[[], Predictor]", there: Container[int], *, workers: int, device: str | None
) -> Iterator[Part]:
    """The parts that are not there, in the order in which the processes have them."""
    import ray

    this_node = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    parts = ray.data.from_items([{"start": 0}], override_num_blocks=1).map_batches(
        Reading(work, there), batch_size=1, batch_format="pyarrow", num_cpus=0, label_selector=this_node
    )
    answers = parts.map_batches(
        Answering, fn_constructor_args=(work, opening), batch_size=1, batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=WAITING),
        **resources(workers, device),
    )  # fmt: skip
    try:
        for batch in answers.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            yield from map(part_of_row, batch.to_pylist())
    except ray.exceptions.RayError as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise TrainingError(
            f"predict: a process failed ({type(error).__name__}: {said}); what is answered is kept"
        ) from None


def resources(workers: int, device: str | None) -> dict[str, float]:
    """What each process gets of the cluster. Raises ConfigError if it has no GPU and one is asked for."""
    import ray
    import ray._private.state

    gpus = ray.cluster_resources().get("GPU", 0)
    if (device or "").startswith("cuda") and gpus < 1:
        raise ConfigError(f"--device {device}: the cluster has no GPU; leave it out, or say cpu")
    free = ray._private.state.available_resources_per_node().values()
    return share([each.get("CPU", 0) for each in free], 0 if device == "cpu" else gpus, workers)


def share(cpus: Sequence[float], gpus: float, workers: int) -> dict[str, float]:
    """What one of the processes gets: CPUs, as many as there are for all on the nodes, and a GPU, or the same part of
    one as others if there are fewer. `cpus` has those of each node that nobody holds."""
    most = max(1, int(max(cpus, default=1)))
    fit = (count for count in range(most, 1, -1) if sum(node // count for node in cpus) >= workers)
    if gpus < 1:
        return {"num_cpus": next(fit, 1)}
    return {"num_cpus": 1, "num_gpus": RAY_STEP // -(-workers // int(gpus)) / RAY_STEP}


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block Ray Data makes a block of each part, and says nothing but errors, unless debugging."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: any row is a block of its own
    context.enable_progress_bars = context.print_on_execution_start = debugging()
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(level if debugging() else logging.ERROR)
    try:
        with DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def python_alone_on_stderr() -> Iterator[None]:
    """Within the block what Ray's native code writes to standard error is dropped, unless debugging: it warns of the
    actors that Ray Data makes. What Python writes there stays."""
    if debugging():
        yield
        return
    before, kept, nothing = sys.stderr, os.dup(2), os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(kept, "w", buffering=1) as stream:
        sys.stderr = stream if before is sys.__stderr__ else before
        os.dup2(nothing, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nothing)
            sys.stderr = before


# ---------------------------------------------------------------- in other processes


@dataclass(frozen=True)
class Reading:
    """Reads the rows of a prediction's missing parts."""

    work: Predicting
    there: Container[int]

    def __call__(self, _: "pa.Table") -> "Iterator[pa.Table]":
        """A row per part, one after the other; the last one holds what stopped it, if anything has."""
        try:
            for number, rows in self.work.missing(self.there):
                yield row_of(number, pickle.dumps(rows))
        except Exception as error:
            yield row_of(fault=error)


class Answering:
    """Answers parts, with the version in its base, which is loaded once."""

    def __init__(self, work: Predicting, opening: Opening) -> None:
        self.work = work
        self.predictor: Predictor | None = None
        self.fault: Exception | None = None
        try:
            self.predictor = opening()
        except Exception as error:  # is told with the first part
            self.fault = error

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        """The row of a part with its answers in place of its rows, or with what is wrong with it."""
        (asked,) = batch.to_pylist()
        if asked["fault"]:
            return batch
        if self.predictor is None:
            return row_of(fault=self.fault)
        try:
            return row_of(*self.work.answered(self.predictor, asked["number"], pickle.loads(asked["data"]), nobody))
        except Exception as error:
            return row_of(fault=error)


def nobody(_: object) -> None:
    """Is told what nobody need know."""


def row_of(
    number: int = 0, data: bytes = b"", rows: int = 0, unanswered: int = 0, fault: Exception | None = None
) -> "pa.Table":
    """A part as a row that is sent between processes."""
    import pyarrow as pa

    told = [type(fault).__name__, str(fault)] if fault else []
    return pa.Table.from_pylist(
        [{"number": number, "data": data, "rows": rows, "unanswered": unanswered, "fault": told}],
        schema=pa.schema(
            [("number", pa.int64()), ("data", pa.large_binary()), ("rows", pa.int64()), ("unanswered", pa.int64()),
             ("fault", pa.list_(pa.string()))]
        ),
    )  # fmt: skip


def part_of_row(row: dict[str, Any]) -> Part:
    """The part of a row. Raises what is wrong with it."""
    if row["fault"]:
        kind, said = row["fault"]
        if (ours := getattr(errors, kind, None)) is not None:
            raise ours(said)
        raise TrainingError(f"predict: a process failed ({kind}: {said}); what is answered is kept")
    return Part(row["number"], row["data"], row["rows"], row["unanswered"])
