"""Rows of a task made clean, without a text in two splits, and limited: steps 1 to 5 at the head of `tasks`."""

import re
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from math import isfinite
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from cluster.errors import DataError
from cluster.schema import Grown
from trainers.config import Positive
from trainers.data.docstrings import draw
from trainers.data.sources import ColumnsTask, LabelledTask, Split, TaskBase, did_you_mean, listed, shown


class DataConfig(Grown):
    """How rows are split and limited, for every task that does not say otherwise. None means no limit.

    `validation_fraction` is a share of the cleaned training rows, at most `max_validation_rows` and at least one row.
    `test_sample` says which test rows `max_test_rows` keeps. Its default is left out of what is stored, since there was
    no other way before.
    """

    added: ClassVar[tuple[str, ...]] = ("test_sample",)

    validation_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    max_validation_rows: Positive | None = 500
    max_train_rows: Positive | None = None
    max_test_rows: Positive | None = None
    test_sample: Literal["first", "random"] = "first"


WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?")  # a whole number as programs write it, be it as a fraction
TRUTH = ("False", "True")  # as Python and pandas write booleans, in the order of their values


class Row(NamedTuple):
    """A cleaned row; `number` counts the rows of its file from 1, so that sorted rows are in file order."""

    number: int
    text: str
    label: int


def clean(
    task: TaskBase,
    split: Split,
    labels: Sequence[str],
    notes: list[str],
    fix: str = "correct the row, or give all labels",
) -> list[Row]:
    """Rows of a split with stripped texts and label indices. Rows without text are left out and counted. `fix` is what
    the error says of a label that is none of the labels."""
    index = {label: position for position, label in enumerate(labels)}
    indices = takes_indices(task, labels)
    rows = []
    for number, (value, label) in enumerate(zip(split.texts, split.labels, strict=True), start=1):
        text = stripped(task, split, number, value)
        if not text:
            continue
        name = label_text(task, split, number, label)
        position = index.get(name)
        if position is None and indices:
            position = index_meant(name, labels)
        if position is None:
            raise unknown_label(task, split, number, label, labels, fix=fix)
        rows.append(Row(number, text, position))
    count(notes, len(split.texts) - len(rows), f"row(s) without text dropped from {split.where}")
    return rows


def chosen(task: LabelledTask, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that a task takes: its `classes`, else all.

    Raises:
        DataError: a class is none of the labels.
    """
    for name in task.classes or ():
        if name not in labels:
            raise DataError(
                f"task {task.name}: classes: {name!r} is none of the labels [{listed(map(repr, labels))}]; correct it"
                f"{did_you_mean(name, labels)}"
            )
    return task.classes or tuple(labels)


def of_classes(rows: list[Row], labels: Sequence[str], classes: Sequence[str]) -> list[Row]:
    """Those of the rows whose label is one of the classes, with indices into these; numbered anew, unless all are
    taken as they are."""
    if tuple(labels) == tuple(classes):
        return rows
    index = {labels.index(name): place for place, name in enumerate(classes)}
    kept = [row for row in rows if row.label in index]
    return [Row(number, row.text, index[row.label]) for number, row in enumerate(kept, start=1)]


def stripped(task: TaskBase, split: Split, number: int, value: Any) -> str:
    """The text without outer white space; nothing for null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        fix = "quote it" if isinstance(value, int | float) else "write it as one string"
        raise DataError(f"task {task.name}: {split.place(number)}: text {shown(value)} is not a string; {fix}")
    if not encodes(value):
        raise DataError(
            f"task {task.name}: {split.place(number)}: text {shown(value)} has half a surrogate pair; repair it"
        )
    return value.strip()


def encodes(text: str) -> bool:
    """Whether a string can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def label_text(task: TaskBase, split: Split, number: int, value: Any) -> str:
    """A label as the word that it is: a string without outer white space, a number or boolean as Python writes it, a
    day as 2024-01-31; nothing for null and for what is no number.

    Raises:
        DataError: it is a list, an object or anything else that is not one word.
    """
    if isinstance(value, float | Decimal) and not isfinite(value):
        return ""
    kinds = str | bool | int | float | Decimal | date | None
    if not isinstance(value, kinds) or isinstance(value, datetime):
        raise DataError(
            f"task {task.name}: {split.place(number)}: label {shown(value)} is not one label; give each row one "
            "string or number"
        )
    text = as_text(value)
    if not encodes(text):
        raise DataError(
            f"task {task.name}: {split.place(number)}: label {shown(value)} has half a surrogate pair; repair it"
        )
    return text


def takes_indices(task: TaskBase, labels: Sequence[str]) -> bool:
    """Whether numbers in the label column are indices: the labels are given, and none of them is a number itself."""
    given = isinstance(task, ColumnsTask) and task.labels
    return bool(given) and all(number_of(label) is None for label in labels)


def whole(text: str) -> int | None:
    """The whole number that a label spells, as 1 or 1.0; None if it spells none."""
    found = WHOLE.fullmatch(text)
    return int(found[1]) if found else None


def index_meant(text: str, labels: Sequence[str]) -> int | None:
    """The index into `labels` that a number means, or false and true if there are two; None if it means none."""
    if text in TRUTH:
        return TRUTH.index(text) if len(labels) == 2 else None
    number = whole(text)
    return number if number is not None and 0 <= number < len(labels) else None


def number_notes(labels: Sequence[str]) -> list[str]:
    """What is to be said of labels that are numbers or booleans instead of words."""
    fix = "not words; name them in that order under `labels`"
    notes = []
    numbers = {label: number for label in labels if (number := number_of(label)) is not None}
    if len(numbers) == len(labels):
        notes.append(f"its labels are numbers ({listed(labels)}), {fix}")
    elif set(labels) <= set(TRUTH):
        notes.append(f"its labels are booleans ({listed(labels)}), {fix}")
    same = [label for label, number in numbers.items() if list(numbers.values()).count(number) > 1]
    if same:
        notes.append(f"the labels {listed(map(repr, same))} are the same number; write it in one way")
    return notes


def number_of(text: str) -> float | None:
    """The number that a label spells in digits; None if it spells none."""
    return float(text) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else None


def unknown_label(
    task: TaskBase, split: Split, number: int, value: Any, labels: Sequence[str], *, fix: str
) -> DataError:
    """The error for a label that the task does not have."""
    spelt = number_of(as_text(value))
    if spelt == -1:
        fix = "-1 marks rows without a label, so choose another split"
    elif spelt is not None and takes_indices(task, labels):
        fix = f"a number is an index into `labels`, from 0 to {len(labels) - 1}"
    elif spelt is not None and (same := [label for label in labels if number_of(label) == spelt]):
        fix = f"write the number {same[0]} in one way in all splits"
    return DataError(
        f"task {task.name}: {split.place(number)}: label {shown(value)} is none of the labels "
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


def carved_test(train: list[Row], share: float, seed: int, notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Training rows without a share of their distinct texts, and that share as test rows, by label in proportion and
    numbered anew. Which they are depends on texts, labels and seed, not on file order."""
    rows = distinct(train, "training", notes)
    size = max(1, round(share * len(rows)))
    taken = {row.number for row in in_proportion(rows, seed, "test share")[:size]}
    notes.append(share_note(len(taken), len(rows)))
    test = [row for row in rows if row.number in taken]
    numbered = [row._replace(number=number) for number, row in enumerate(test, start=1)]
    return [row for row in rows if row.number not in taken], numbered


def share_note(size: int, rows: int) -> str:
    """What is to be said of test rows that nobody chose."""
    return (
        f"no test rows are given: {size:,} of {rows:,} training rows, drawn by the seed, are the test set; name files "
        "that hold it, or another test_share"
    )


def in_proportion(rows: list[Row], seed: int, purpose: str = "validation") -> list[Row]:
    """The rows, of distinct texts, in an order drawn by the seed. Any number of first rows has labels in proportion.

    The i-th of a label's n rows, in drawn order from 0, is put at (i + 1/2) / n of the whole.
    """
    by_label: dict[int, list[tuple[str, Row]]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append((draw(seed, purpose, row.text), row))
    places = [
        ((i + 0.5) / len(drawn), key, row) for drawn in by_label.values() for i, (key, row) in enumerate(sorted(drawn))
    ]
    return [row for *_, row in sorted(places)]


def sample(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` of the rows, drawn by the seed, in file order. A larger limit only adds rows."""
    drawn = sorted(rows, key=lambda row: draw(seed, "train", row.text))
    return sorted(drawn[: limited(len(rows), limit)])


def first_or_random(rows: list[Row], limit: int | None, way: Literal["first", "random"], seed: int) -> list[Row]:
    """The test rows that a limit keeps: those among the first rows of the file, or as many drawn by the seed, in file
    order. A larger limit only adds rows."""
    if limit is None:
        return rows
    if way == "first":
        return [row for row in rows if row.number <= limit]
    return sorted(sorted(rows, key=lambda row: draw(seed, "test", row.text))[:limit])


def note_absent(notes: list[str], labels: Sequence[str], split: str, rows: Sequence[Row]) -> None:
    """Notes the labels that no row of a split has."""
    absent = sorted(set(range(len(labels))) - {row.label for row in rows})
    count(notes, len(absent), f"label(s) without a {split} row: {listed(labels[label] for label in absent)}")


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
