"""Rows of a task made clean, without a text in two splits, and limited: steps 1 to 5 at the head of `tasks`."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from cluster.errors import DataError
from cluster.schema import Frozen
from trainers.config import Positive
from trainers.data.docstrings import draw
from trainers.data.sources import ColumnsTask, Split, TaskBase, did_you_mean, listed, shown


class DataConfig(Frozen):
    """How rows are split and limited, for every task that does not say otherwise. None means no limit.

    `validation_fraction` is a share of the cleaned training rows, at most `max_validation_rows` and at least one row.
    """

    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    max_validation_rows: Positive | None = 500
    max_train_rows: Positive | None = None
    max_test_rows: Positive | None = None


class Row(NamedTuple):
    """A cleaned row; `number` counts the rows of its file from 1, so that sorted rows are in file order."""

    number: int
    text: str
    label: int


def clean(task: TaskBase, split: Split, labels: Sequence[str], notes: list[str]) -> list[Row]:
    """Rows of a split with stripped texts and label indices. Rows without text are left out and counted."""
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
        raise DataError(f"task {task.name}: {split.where} row {number}: text {shown(value)} is not a string; quote it")
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
    """The rows, of distinct texts, in an order drawn by the seed. Any number of first rows has labels in proportion.

    The i-th of a label's n rows, in drawn order from 0, is put at (i + 1/2) / n of the whole.
    """
    by_label: dict[int, list[tuple[str, Row]]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append((draw(seed, "validation", row.text), row))
    places = [
        ((i + 0.5) / len(drawn), key, row) for drawn in by_label.values() for i, (key, row) in enumerate(sorted(drawn))
    ]
    return [row for *_, row in sorted(places)]


def sample(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` of the rows, drawn by the seed, in file order. A larger limit only adds rows."""
    drawn = sorted(rows, key=lambda row: draw(seed, "train", row.text))
    return sorted(drawn[: limited(len(rows), limit)])


def limited(size: int, limit: int | None) -> int:
    """min(size, limit); None means no limit."""
    return size if limit is None else min(size, limit)


def as_text(value: Any) -> str:
    """A value as a stripped string: numbers and booleans as Python writes them, None as the empty string."""
    return "" if value is None else str(value).strip()


def count(notes: list[str], number: int, what: str) -> None:
    """Adds the note `number` `what`, unless `number` is 0."""
    if number:
        notes.append(f"{number} {what}")
