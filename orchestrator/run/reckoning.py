"""How long a run may take, reckoned from what earlier runs of the same store took per row."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from cluster.errors import ConfigError, OrthoplexError
from cluster.storage import Store
from orchestrator.config.run import RunConfig
from orchestrator.run.evaluation import Cost, trained_rows
from orchestrator.track.events import Committed
from orchestrator.track.layout import list_tracks
from orchestrator.track.spending import Spent, gpus
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track

MOST_RUNS = 12  # of a team, whose logs are read
SAME = (  # keys that must be alike for a run to tell the speed of another
    "model.name", "model.dtype", "model.quantization", "model.task_type", "model.max_length", "adapter.method",
    "cluster.use_gpu", "cluster.gpus_per_worker",
)  # fmt: skip


class Speed(NamedTuple):
    """Seconds of one worker per trained row and, None if none was scored, per scored row, as one task took them."""

    train_s: float
    evaluate_s: float | None


@dataclass(frozen=True, kw_only=True)
class Reckoned:
    """What is left of a run may take `seconds`, as the median of `tasks` earlier tasks, and from `least_s` to `most_s`
    as single ones of them say; `gpu_hours` and `money` for `seconds`. `runs` are where these tasks are from."""

    seconds: float
    least_s: float
    most_s: float
    tasks: int
    runs: list[str]
    gpu_hours: float
    money: float | None
    currency: str | None


def reckon(config: RunConfig, left: Cost, store: Store, state: RunState) -> Reckoned | None:
    """The time that `left` takes, from the run's own tasks if it has some, else from runs of the team with the same
    base, method and devices; None if there are none.

    The work of one worker per row is taken to be the same for any number of workers. Starting workers, and loading the
    base, is not in it.
    """
    found: dict[str, list[Speed]] = {}
    for other in sources(store, state):
        if is_alike(config, other) and (speeds := list(speeds_of(other))):
            found[other.label] = speeds
            if other is state:
                break
    if not found or not left["trained_rows"]:
        return None
    return reckoned(config, left, found)


def reckoned(config: RunConfig, left: Cost, found: dict[str, list[Speed]]) -> Reckoned:
    """See `reckon`; `found` are the speeds by run."""
    speeds, workers = [speed for each in found.values() for speed in each], config.cluster.num_workers.min
    scoring = [speed.evaluate_s for speed in speeds if speed.evaluate_s is not None]
    per_row = median(scoring) if scoring else 0.0

    def seconds(train_s: float) -> float:
        return (train_s * left["trained_rows"] + per_row * left["rows"]) / workers

    rates = [speed.train_s for speed in speeds]
    middle = seconds(median(rates))
    taken = Spent(
        train_s=middle, evaluate_s=0.0, gpu_hours=gpus(config.cluster) * workers * middle / 3600, price=config.cost
    )
    return Reckoned(
        seconds=middle, least_s=seconds(min(rates)), most_s=seconds(max(rates)), tasks=len(speeds), runs=[*found],
        gpu_hours=taken.gpu_hours, money=taken.money, currency=taken.currency,
    )  # fmt: skip


def sources(store: Store, state: RunState) -> Iterator[RunState]:
    """The run itself, then other runs of its team, at most MOST_RUNS. What cannot be read is left out."""
    yield state
    names = [name for _, name in list_tracks(store, state.team) if name != state.name]
    for name in names[-MOST_RUNS:]:
        with suppress(OrthoplexError):
            yield replay(state.team, name, Track(store, state.team, name).entries())


def is_alike(config: RunConfig, other: RunState) -> bool:
    """Whether another run computes with the same base, method and devices."""
    with suppress(ConfigError):
        theirs = other.completed()
        return all(value(config, key) == value(theirs, key) for key in SAME)
    return False


def value(config: RunConfig, dotted: str) -> object:
    """The value of a dotted key."""
    section, _, key = dotted.partition(".")
    return getattr(getattr(config, section), key)


def speeds_of(state: RunState) -> Iterator[Speed]:
    """The speed of each task that the run has trained, if its rows are known."""
    config, sizes = state.completed(), [task.rows.train for task in state.tasks]
    for commit in state.commits:
        index, cost = commit.version - 1, commit.cost
        if cost is None or index >= len(config.tasks) or not sizes[index]:
            continue
        rows = trained_rows(config.training_of(index), config.trained_rows(sizes, index))
        scored = scored_rows(commit)
        evaluate_s = float(cost.evaluate_s * cost.workers) / scored if scored else None
        yield Speed(float(cost.train_s * cost.workers) / rows, evaluate_s)


def scored_rows(commit: Committed) -> int:
    """The rows that were scored with a commit."""
    scores: Sequence[int] = [score.rows for score in (*commit.validation, *commit.test)]
    return sum(scores)
