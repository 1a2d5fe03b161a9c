"""Which rows of other tasks a task is trained on beside its own: `train.replay` and `train.joint`.

With `replay`, a share of each earlier task's training rows: the same ones at every later task, drawn by the seed, so
that only these would have to be kept. With `joint`, all rows of all tasks. Rows of other tasks count as own ones do: an
epoch is a pass over all of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from trainers.config import AT_ONCE, TrainConfig
from trainers.data.batching import drawn
from trainers.objectives.base import EncodedSplit

Splits = Mapping[str, EncodedSplit]
Mixed = tuple[EncodedSplit, np.ndarray]


def mixed_in(tasks: Sequence[Splits], index: int, train: TrainConfig) -> list[Mixed]:
    """The training rows of the tasks before task `index` that it is trained on: per task its split, and ascending row
    numbers. Empty if it is trained on its own rows alone."""
    splits = [each["train"] for each in tasks[:index]] if train.joint or train.replay else []
    sizes = [len(split.lengths) for split in splits]
    if train.joint:
        return [(split, np.arange(size)) for split, size in zip(splits, sizes, strict=True)]
    if train.replay is None:
        return []
    kept = [drawn(size, train.replay.rows(size), train.task_seed(task)) for task, size in enumerate(sizes)]
    return [(split, np.sort(rows)) for split, rows in zip(splits, kept, strict=True)]


def own_and_mixed(tasks: Sequence[Splits], index: int, train: TrainConfig) -> tuple[EncodedSplit, list[Mixed]]:
    """The rows of task `index`, and those of other tasks that it is trained on. All rows of a joint training are its
    own: a method that protects what was learned is to read all of them."""
    own, mixed = tasks[index]["train"], mixed_in(tasks, index, train)
    return (own.with_rows(mixed), []) if train.joint and mixed else (own, mixed)


def title(names: Sequence[str], index: int, train: TrainConfig) -> str:
    """What people are told is trained as task `index`."""
    return AT_ONCE if train.joint else names[index]


def counts(names: Sequence[str], tasks: Sequence[Splits], index: int, train: TrainConfig) -> dict[str, int]:
    """The number of rows per task that task `index` is trained on; empty if they are its own alone."""
    found = {name: len(rows) for name, (_, rows) in zip(names, mixed_in(tasks, index, train), strict=False)}
    return found and {**found, names[index]: len(tasks[index]["train"].lengths)}
