"""Rows with right labels, as `orthoplex eval` reads them: those of one task, or each row as the task that it fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.errors import DataError
from orchestrator.delivery.repertoire import Known, label_column, text_column
from orchestrator.delivery.tables import Row, read
from orchestrator.log.entry import JsonLike
from trainers.data import cleaning
from trainers.data.cleaning import as_text, clean, count, index_meant, label_text, takes_indices
from trainers.data.files import named
from trainers.data.generative.config import AnyTask
from trainers.data.sources import ColumnsTask, LabelledTask, Split, TaskBase, did_you_mean, listed, shown

FIX = "correct the row, or leave it out: a version is scored on the labels that it was trained on"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts with the indices of their labels, and where each is from."""

    texts: list[str]
    right: list[int]
    places: list[tuple[str, int]]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How rows of a task are read: its columns, and the words that it was trained on."""

    task: AnyTask
    words: tuple[str, ...]
    text: str
    label: str

    @classmethod
    def of(cls, known: Known, columns: Mapping[str, str]) -> "Way":
        """That of a task, with other columns as far as they are named."""
        text, label = columns.get("text", text_column(known.task)), columns.get("label", label_column(known.task))
        return cls(task=known.task, words=known.description.labels, text=text, label=label)

    @cached_property
    def given(self) -> tuple[str, ...]:
        """The labels of the task's rows, in the order in which numbers mean them, as far as its entry gives them."""
        return tuple(map(str.strip, self.task.labels or ())) if isinstance(self.task, ColumnsTask) else ()

    @cached_property
    def known(self) -> tuple[str, ...]:
        """The words that labels of its rows may be."""
        return self.given or self.words

    @cached_property
    def by_number(self) -> bool:
        """Whether a number may stand for a word."""
        return takes_indices(self.task, self.known)

    @property
    def selects(self) -> bool:
        """Whether the task takes some of its rows' labels alone."""
        return isinstance(self.task, LabelledTask) and self.task.classes is not None

    def lacks(self, row: Row) -> list[str]:
        """What a row lacks of `text` and `label`."""
        return [name for name, column in (("text", self.text), ("label", self.label)) if column not in row]

    def word(self, label: JsonLike) -> str | None:
        """The label's word, which may be given by its number; None if it is none of the task's."""
        text = as_text(label)
        if text in self.known:
            return text
        index = index_meant(text, self.known) if self.by_number else None
        return None if index is None else self.known[index]


def labelled_rows(
    asked: Sequence[Known], paths: Sequence[Path], columns: Mapping[str, str], words: Sequence[str]
) -> Rows:
    """The rows of files, cleaned as those of their tasks are: rows without text are left out.

    A row is of the task whose columns it has; if it has those of several, of the newest one that knows its label.

    Raises:
        DataError: a column is absent, a label is none of the words or could be one of several, or no row is left.
    """
    ways, notes = [Way.of(known, columns) for known in asked], list[str]()
    reader: TaskBase = ways[0].task if len(ways) == 1 else LabelledTask(name="all")
    texts, right, places = list[str](), list[int](), list[tuple[str, int]]()
    for path in paths:
        where, raw = repr(named(path)), [row for *_, row in read(reader.name, [path])]
        if raw:
            check_first(reader.name, where, ways, raw[0])
        mine = [way_of(ways, f"{where} row {number}", row) for number, row in enumerate(raw, start=1)]
        labels = [right_label(ways, way, row) for way, row in zip(mine, raw, strict=True)]
        split = Split(where, [row.get(way.text) for way, row in zip(mine, raw, strict=True)], labels)
        kept = cleaned(reader, split, mine, words, notes)
        texts += [row.text for row in kept]
        right += [row.label for row in kept]
        places += [(where, row.number) for row in kept]
    if not texts:
        raise DataError(f"task {reader.name}: no row of {listed(map(named, paths))} has a text; add some")
    return Rows(texts=texts, right=right, places=places, notes=notes)


def check_first(name: str, where: str, ways: Sequence[Way], row: Row) -> None:
    """Raises DataError unless the first row of a file has the columns of one of the tasks."""
    lacking = [(way, way.lacks(row)) for way in ways]
    if not all(lacks for _, lacks in lacking):
        return
    way, (what, *_) = min(lacking, key=lambda each: len(each[1]))
    column = way.text if what == "text" else way.label
    raise DataError(
        f"task {name}: {where} has no column {column!r}, only {listed(row)}; name yours: --columns "
        f"{what}=COLUMN{did_you_mean(column, row)}"
    )


def way_of(ways: Sequence[Way], place: str, row: Row) -> Way:
    """How a row is read. Raises DataError if its label means other words to several tasks."""
    if len(ways) == 1:
        return ways[0]
    fit = [way for way in ways if not way.lacks(row)] or ways
    meant = {way.task.name: word for way in fit if (word := way.word(row.get(way.label))) is not None}
    if len({*meant.values()}) > 1:
        label = shown(row.get(fit[-1].label))
        told = listed(f"{word!r} of {name}" for name, word in meant.items())
        raise DataError(
            f"task all: {place}: label {label} may be {told}; write the word, or score one --task at a time"
        )
    return next((way for way in reversed(fit) if way.task.name in meant), fit[-1])


def right_label(ways: Sequence[Way], way: Way, row: Row) -> JsonLike:
    """The label of a row. Among the labels of several tasks a number becomes the word that it means to its own."""
    label = row.get(way.label)
    return label if len(ways) == 1 else way.word(label) or label


def cleaned(
    reader: TaskBase, split: Split, mine: Sequence[Way], words: Sequence[str], notes: list[str]
) -> list[cleaning.Row]:
    """The rows of a split, each read in its own way, with indices into `words`. Rows of a task that takes some
    `classes` of its labels alone are left out if theirs is another one."""
    selecting = [(number, way) for number, way in enumerate(mine, start=1) if way.selects]
    if not selecting:
        return clean(reader, split, words, notes, FIX)
    ways = {id(way): way for _, way in selecting}.values()
    every = dict.fromkeys(label for way in ways for label in way.given) | dict.fromkeys(words)
    free = (number for number, way in selecting if not way.given)
    every |= dict.fromkeys(label_text(reader, split, number, split.labels[number - 1]) for number in free)
    names = [label for label in every if label]
    rows = clean(reader, split, names, notes, FIX)
    kept = [row._replace(label=words.index(names[row.label])) for row in rows if names[row.label] in words]
    count(
        notes, len(rows) - len(kept), f"row(s) of {split.where} left out: their labels are none of the task's classes"
    )
    return kept
