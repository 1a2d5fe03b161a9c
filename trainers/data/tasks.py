"""From a task's configuration to clean, disjoint train, validation and test rows with their labels.

What is done to the rows, in this order:

1. Texts and labels are stripped; rows without text are dropped; a label outside the task's labels is an error. If the
   task names `classes`, rows of other labels are left out, and those that stay are numbered anew.
2. Training and given validation rows whose text is in the test file are removed, even if it is there beyond
   `max_test_rows`. The test rows stay as they are. Without test rows, a `test_share` of the training rows of distinct
   texts are taken for them, by label in proportion.
3. Of rows with the same text the first is kept, whether or not their labels agree.
4. If the task gives validation rows, training rows whose text is among them are removed. Otherwise validation rows are
   taken from the training rows, by label in proportion. The split depends on texts, labels and seed, not on file order.
5. `max_train_rows` keeps a sample drawn by the seed, in file order; `max_test_rows` keeps the first rows of the file,
   as the reference implementation does, or with `test_sample: random` a sample as well.

What steps 1 to 4 remove is counted in `TaskData.warnings`; so are labels without a row in one of the splits.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import DataError
from trainers.data.cl_benchmark import read_cl_benchmark
from trainers.data.cleaning import (
    DataConfig,
    Row,
    as_text,
    carved_test,
    chosen,
    clean,
    first_or_random,
    label_text,
    note_absent,
    number_notes,
    of_classes,
    sample,
    separate,
)
from trainers.data.sources import (
    NO_ROWS,
    ClBenchmarkTask,
    DocstringsTask,
    FilesTask,
    HubTask,
    ImportedTask,
    RawTask,
    Split,
    TaskBase,
    TaskConfig,
    did_you_mean,
    listed,
    read_docstrings,
)
from trainers.data.tables import read_files, read_hub

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "ClBenchmarkTask",
    "DataConfig",
    "DocstringsTask",
    "FilesTask",
    "HubTask",
    "TaskConfig",
    "TaskData",
    "did_you_mean",
    "load_task",
]


SPLITS = ("train", "validation", "test")  # of a task


@dataclass(frozen=True)
class TaskData:
    """A task ready to train on.

    Each split is a `datasets.Dataset` in memory with the columns `text` (string) and `label` (int64, index into
    `labels`). No text is in two splits. `fingerprint` is the sha256 of labels and rows: equal data have an equal
    fingerprint, in any process on any machine.
    """

    name: str
    labels: tuple[str, ...]
    train: "Dataset"
    validation: "Dataset"
    test: "Dataset"
    warnings: tuple[str, ...]
    fingerprint: str


def load_task(task: TaskConfig, data: DataConfig, data_dir: Path | None, seed: int) -> TaskData:
    """Reads, cleans, splits and limits one task, as the head of this module says.

    Raises:
        DataError: a file, dataset or column is absent or malformed, a text is not a string, a label or class is
            unknown, a split is empty, or there are fewer than two labels. The message names the task, the key or file,
            the value and the fix.
    """
    raw = read_task(task, data_dir, seed)
    every = label_names(task, raw)
    labels = chosen(task, every)
    notes: list[str] = []

    def taken(split: Split) -> list[Row]:
        return of_classes(clean(task, split, every, notes), every, labels)

    train = taken(raw.train)
    if isinstance(raw.test, Split):
        test = taken(raw.test)
    else:
        train, test = carved_test(train, raw.test, seed, notes)
    validation = taken(raw.validation) if raw.validation else None
    train, validation = separate(train, validation, test, data=data, seed=seed, notes=notes)
    train = sample(train, task.max_train_rows or data.max_train_rows, seed)
    test = first_or_random(test, task.max_test_rows or data.max_test_rows, data.test_sample, seed)
    refuse_empty(task, raw, {"train": train, "validation": validation, "test": test})
    notes += number_notes(labels)
    for split, rows in (("training", train), ("validation", validation), ("test", test)):
        note_absent(notes, labels, split, rows)
    return TaskData(
        name=task.name,
        labels=labels,
        train=to_dataset(train),
        validation=to_dataset(validation),
        test=to_dataset(test),
        warnings=tuple(f"task {task.name}: {note}" for note in notes),
        fingerprint=fingerprint(labels, (train, validation, test)),
    )


# ---------------------------------------------------------------- labels and rows


def read_task(task: TaskConfig, data_dir: Path | None, seed: int) -> RawTask:
    """Reads every split of `task`; `data_dir` is for cl_benchmark, `seed` for docstrings.

    Raises:
        DataError: a file, column or dataset is absent or cannot be parsed.
    """
    match task:
        case DocstringsTask():
            return read_docstrings(task, seed)
        case ClBenchmarkTask():
            return read_cl_benchmark(task, data_dir)
        case FilesTask():
            return read_files(task)
        case HubTask():
            return read_hub(task)
        case ImportedTask():
            raise DataError(f"task {task.name}: {NO_ROWS}")


def label_names(task: TaskBase, raw: RawTask) -> tuple[str, ...]:
    """The task's labels in order: the given ones, else those of the training rows, sorted."""
    if raw.labels is not None:
        labels = tuple(label.strip() for label in raw.labels)
        source = "labels"
    else:
        pairs = enumerate(zip(raw.train.texts, raw.train.labels, strict=True), start=1)
        words = {label_text(task, raw.train, number, label) for number, (text, label) in pairs if as_text(text)}
        labels = tuple(sorted(words - {""}))
        source = f"the labels of {raw.train.where}"
    if len(set(labels)) < 2 or len(set(labels)) < len(labels) or not all(labels):
        raise DataError(
            f"task {task.name}: {source} are [{listed(map(repr, labels))}]; at least two are needed, all different "
            "and none empty"
        )
    return labels


def refuse_empty(task: TaskBase, raw: RawTask, splits: dict[str, list[Row]]) -> None:
    """Raises DataError if a split has no rows left."""
    tested = raw.test if isinstance(raw.test, Split) else raw.train
    where = {"train": raw.train, "validation": raw.validation or raw.train, "test": tested}
    for key, rows in splits.items():
        if not rows:
            raise DataError(
                f"task {task.name}: no {key} rows are left of the {len(where[key].texts)} in {where[key].where}; "
                "add rows that have a text and are not in the test set"
            )


# ---------------------------------------------------------------- result


def to_dataset(rows: Sequence[Row]) -> "Dataset":
    """An in-memory `datasets.Dataset` of the columns `text` and `label`."""
    from datasets import Dataset, Features, Value

    columns = {"text": [row.text for row in rows], "label": [row.label for row in rows]}
    return Dataset.from_dict(columns, features=Features({"text": Value("string"), "label": Value("int64")}))


def fingerprint(labels: Sequence[str], splits: Iterable[Sequence[Row]]) -> str:
    """sha256, hexadecimal, over labels and rows as lines of JSON in ASCII."""
    digest = hashlib.sha256(json.dumps(labels).encode())
    for rows in splits:
        digest.update(f"\n{len(rows)} rows".encode())
        for row in rows:
            digest.update(b"\n" + json.dumps([row.text, row.label]).encode())
    return digest.hexdigest()
