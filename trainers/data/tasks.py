"""From a task's configuration to clean, disjoint train, validation and test rows with their labels.

What is done to the rows, in this order:

1. Texts and labels are stripped; rows without text are dropped; a label outside the task's labels is an error.
2. Training and given validation rows whose text stands in the test file, be it beyond `max_test_rows`, are removed.
   The test rows stay as they are.
3. Of rows with the same text the first is kept, whether or not their labels agree.
4. Validation is carved from train, by label in proportion, unless the task gives it: then training rows whose text
   stands in validation are removed. Which rows go where depends on texts, labels and seed, not on file order.
5. `max_train_rows` keeps a sample drawn by the seed, in file order; `max_test_rows` keeps the first rows of the file,
   as the reference implementation does.

What steps 1 to 4 remove is counted in `TaskData.warnings`; so is a label without a training row.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from cluster.errors import DataError
from cluster.schema import Frozen
from trainers.config import Positive
from trainers.data.docstrings import draw
from trainers.data.sources import (
    ClBenchmarkTask,
    ColumnsTask,
    DocstringsTask,
    FilesTask,
    HubTask,
    RawTask,
    Split,
    TaskBase,
    TaskConfig,
    did_you_mean,
    listed,
    read_task,
    shown,
)

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


class DataConfig(Frozen):
    """How rows are split and limited, for every task that does not say otherwise. None means no limit.

    `validation_fraction` is a share of the cleaned training rows, at most `max_validation_rows` and at least one row.
    """

    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    max_validation_rows: Positive | None = 500
    max_train_rows: Positive | None = None
    max_test_rows: Positive | None = None


@dataclass(frozen=True)
class TaskData:
    """A task ready to train on.

    Each split is a `datasets.Dataset` in memory with the columns `text` (string) and `label` (int64, index into
    `labels`). No text stands in two splits. `fingerprint` is the sha256 of labels and rows: equal data, equal
    fingerprint, in any process on any machine.
    """

    name: str
    labels: tuple[str, ...]
    train: "Dataset"
    validation: "Dataset"
    test: "Dataset"
    warnings: tuple[str, ...]
    fingerprint: str


class Row(NamedTuple):
    """A cleaned row; `number` counts the rows of its file from 1, so that sorted rows are in file order."""

    number: int
    text: str
    label: int


def load_task(task: TaskConfig, data: DataConfig, data_dir: Path | None, seed: int) -> TaskData:
    """Reads, cleans, splits and limits one task, as the head of this module says.

    Raises:
        DataError: a file, dataset or column is absent or malformed, a text is not a text, a label is unknown, a split
            is empty, or there are fewer than two labels. The message names the task, the key or file, the value and
            the fix.
    """
    raw = read_task(task, data_dir, seed)
    labels = label_names(task, raw)
    notes: list[str] = []
    train, test = clean(task, raw.train, labels, notes), clean(task, raw.test, labels, notes)
    validation = clean(task, raw.validation, labels, notes) if raw.validation else None
    train, validation = separate(train, validation, test, data=data, seed=seed, notes=notes)
    train = sample(train, task.max_train_rows or data.max_train_rows, seed)
    max_test_rows = task.max_test_rows or data.max_test_rows
    test = [row for row in test if max_test_rows is None or row.number <= max_test_rows]
    refuse_empty(task, raw, {"train": train, "validation": validation, "test": test})
    if all(label.lstrip("-").isdecimal() for label in labels):
        notes.append(f"its labels are numbers ({listed(labels)}), not words; name them in that order under `labels`")
    absent = sorted(set(range(len(labels))) - {row.label for row in train})
    count(notes, len(absent), f"label(s) without a training row: {listed(labels[label] for label in absent)}")
    return TaskData(
        name=task.name,
        labels=labels,
        train=to_dataset(train),
        validation=to_dataset(validation),
        test=to_dataset(test),
        warnings=tuple(f"task {task.name}: {note}" for note in notes),
        fingerprint=fingerprint(labels, (train, validation, test)),
    )


def count(notes: list[str], number: int, what: str) -> None:
    """Notes `number` of `what`, unless it is none."""
    if number:
        notes.append(f"{number} {what}")


# ---------------------------------------------------------------- labels and rows


def label_names(task: TaskBase, raw: RawTask) -> tuple[str, ...]:
    """The task's labels in order: the given ones, else those of the training rows, sorted."""
    if raw.labels is not None:
        labels = tuple(label.strip() for label in raw.labels)
        source = "labels"
    else:
        pairs = zip(raw.train.texts, raw.train.labels, strict=True)
        labels = tuple(sorted({as_text(label) for text, label in pairs if as_text(text) and as_text(label)}))
        source = f"the labels of {raw.train.where}"
    if len(set(labels)) < 2 or len(set(labels)) < len(labels) or not all(labels):
        raise DataError(
            f"task {task.name}: {source} are [{listed(map(repr, labels))}]; at least two are needed, all different "
            "and none empty"
        )
    return labels


def as_text(value: Any) -> str:
    """A value as stripped text: numbers and booleans as Python writes them, None as nothing."""
    return "" if value is None else str(value).strip()


def clean(task: TaskBase, split: Split, labels: Sequence[str], notes: list[str]) -> list[Row]:
    """Rows of a split with text stripped and label indexed; rows without text are left out and counted."""
    index = {label: position for position, label in enumerate(labels)}
    if isinstance(task, ColumnsTask) and task.labels and not any(label.isdecimal() for label in labels):
        index |= {str(position): position for position in range(len(labels))}
    rows = []
    for number, (value, label) in enumerate(zip(split.texts, split.labels, strict=True), start=1):
        text = stripped(task, split, number, value)
        if not text:
            continue
        name = as_text(label)
        if name not in index:
            raise unknown_label(task, split, number, label, labels)
        rows.append(Row(number, text, index[name]))
    count(notes, len(split.texts) - len(rows), f"row(s) without text dropped from {split.where}")
    return rows


def stripped(task: TaskBase, split: Split, number: int, value: Any) -> str:
    """The text without outer white space; nothing for null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"task {task.name}: {split.where} row {number}: text {shown(value)} is not a text; quote it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"task {task.name}: {split.where} row {number}: text {shown(value)} has half a surrogate pair; repair it"
        ) from None
    return value.strip()


def unknown_label(task: TaskBase, split: Split, number: int, value: Any, labels: Sequence[str]) -> DataError:
    """The error for a label that the task does not have."""
    fix = "correct the row, or give all labels"
    if as_text(value) == "-1":
        fix = "-1 marks rows without a label, so choose another split"
    return DataError(
        f"task {task.name}: {split.where} row {number}: label {shown(value)} is none of the labels "
        f"[{listed(map(repr, labels))}]; {fix}{did_you_mean(value, labels)}"
    )


def refuse_empty(task: TaskBase, raw: RawTask, splits: dict[str, list[Row]]) -> None:
    """Raises where a split has no rows left."""
    where = {"train": raw.train, "validation": raw.validation or raw.train, "test": raw.test}
    for key, rows in splits.items():
        if not rows:
            raise DataError(
                f"task {task.name}: no {key} rows are left of the {len(where[key].texts)} in {where[key].where}; "
                "add rows that have a text and are not in the test set"
            )


# ---------------------------------------------------------------- splitting


def separate(
    train: list[Row],
    validation: list[Row] | None,
    test: list[Row],
    *,
    data: DataConfig,
    seed: int,
    notes: list[str],
) -> tuple[list[Row], list[Row]]:
    """Train and validation rows with no text in common with each other or with test (steps 2 to 4 above)."""
    test_texts = {row.text for row in test}
    train = distinct(
        without(train, test_texts, "training row(s) removed: the text is in test", notes), "training", notes
    )
    if validation is None:
        size = max(1, round(data.validation_fraction * len(train)))
        validation = in_proportion(train, seed)[: limited(size, data.max_validation_rows)]
        carved = {row.number for row in validation}
        return [row for row in train if row.number not in carved], sorted(validation)
    validation = without(validation, test_texts, "validation row(s) removed: the text is in test", notes)
    validation = distinct(validation, "validation", notes)
    texts = {row.text for row in validation}
    train = without(train, texts, "training row(s) removed: the text is in validation", notes)
    return train, sorted(in_proportion(validation, seed)[: limited(len(validation), data.max_validation_rows)])


def without(rows: list[Row], texts: set[str], what: str, notes: list[str]) -> list[Row]:
    """Rows whose text is not among `texts`."""
    kept = [row for row in rows if row.text not in texts]
    count(notes, len(rows) - len(kept), what)
    return kept


def distinct(rows: list[Row], split: str, notes: list[str]) -> list[Row]:
    """The first row of each text."""
    first: dict[str, Row] = {}
    conflicts = 0
    for row in rows:
        conflicts += first.setdefault(row.text, row).label != row.label
    count(notes, len(rows) - len(first) - conflicts, f"{split} row(s) removed: an earlier one is the same")
    count(notes, conflicts, f"{split} row(s) removed: an earlier one has the same text and another label")
    return list(first.values())


def in_proportion(rows: list[Row], seed: int) -> list[Row]:
    """The rows, of distinct texts, in an order drawn by the seed of which every beginning has the labels in proportion.

    The i-th of a label's n rows, in drawn order, stands at (i + 1/2) / n of the whole.
    """
    by_label: dict[int, list[tuple[str, Row]]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append((draw(seed, "validation", row.text), row))
    places = [
        ((i + 0.5) / len(drawn), key, row) for drawn in by_label.values() for i, (key, row) in enumerate(sorted(drawn))
    ]
    return [row for *_, row in sorted(places)]


def sample(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` of the rows, drawn by the seed, in file order; a larger limit only adds rows."""
    drawn = sorted(rows, key=lambda row: draw(seed, "train", row.text))
    return sorted(drawn[: limited(len(rows), limit)])


def limited(size: int, limit: int | None) -> int:
    """min(size, limit), where None is no limit."""
    return size if limit is None else min(size, limit)


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
