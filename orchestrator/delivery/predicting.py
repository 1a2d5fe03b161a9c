"""Answers to the rows of files: `orthoplex predict`. What is done is kept in `parts`, so that a cut run goes on."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cluster.errors import ConfigError, DataError
from cluster.folders import file_digest
from orchestrator.delivery.parts import Mirror, Parts
from orchestrator.delivery.repertoire import Known, columns_of, source_row, text_column
from orchestrator.delivery.tables import Row, part_of, read
from orchestrator.log.entry import JsonLike
from trainers.data.cleaning import encodes
from trainers.data.generative.config import COLUMNS
from trainers.data.sources import REQUIRED, did_you_mean, listed, shown

if TYPE_CHECKING:
    from orchestrator.delivery.predictor import Predictor
    from trainers.objectives.answering import Labelled, Written

T = TypeVar("T")
U = TypeVar("U")
ROWS_AT_ONCE = {"labels": 2_000, "texts": 200}  # in a part: about as many as a machine answers in half a minute
LABELLED, WRITTEN = ("label", "probability", "scores"), ("answer", "logprob", "finish_reason")
Told = Callable[[int, int], None]  # rows that are done, in this run and before it
Asked = tuple[str, int, Row]  # what messages call a row's file, its number from 1, and the row


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is done with a row: `known` is the task, None for the labels of all tasks. `columns` says which columns of
    the data have other names than the task gives them; answers stand under names that begin with `prefix`."""

    known: Known | None
    columns: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""

    @cached_property
    def generates(self) -> bool:
        """Whether answers are texts."""
        return self.known is not None and self.known.generative

    @property
    def name(self) -> str:
        """The task's name in messages."""
        return self.known.task.name if self.known else "all"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns of answers."""
        return tuple(f"{self.prefix}{name}" for name in (WRITTEN if self.generates else LABELLED))

    @property
    def asked(self) -> str:
        """The column of a text to label."""
        return self.columns.get("text") or (text_column(self.known.task) if self.known else "text")

    @cached_property
    def of_format(self) -> dict[str, str]:
        """The columns of a generative task's format that have other names in the data."""
        return {**columns_of(self.known.task), **self.columns} if self.known else {}

    def check(self, where: str, row: Row) -> None:
        """Checks the columns of a row, as the first one of a file shows them.

        Raises:
            ConfigError: as `check_names`. DataError: a column is missing.
        """
        self.check_names(where, row)
        for name, column in self._needed().items():
            if column not in row:
                raise DataError(
                    f"task {self.name}: {where} has no column {column!r}, only {listed(row) or 'none'}; name yours: "
                    f"--columns {name}=COLUMN{did_you_mean(column, row)}"
                )

    def check_files(self, paths: Sequence[Path]) -> None:
        """Checks the first row of each file. Raises as `check`, and DataError if one cannot be read."""
        for path in paths:
            for where, _, row in islice(read(self.name, [path]), 1):
                self.check(where, row)

    def check_names(self, where: str, row: Row) -> None:
        """Raises ConfigError if a column of a row has the name of an answer's."""
        if clash := [name for name in self.names if name in row]:
            raise ConfigError(
                f"{where}: it has a column {clash[0]!r} already; put something before the names of answers, "
                "as in --prefix predicted_"
            )

    def _needed(self) -> dict[str, str]:
        if not self.generates:
            return {"text": self.asked}
        form: str = self.known.task.form  # type: ignore[union-attr]
        first = REQUIRED[form][0]
        return {first: self.of_format.get(first, first)}

    def answers(self, predictor: "Predictor", rows: Sequence[Asked], told: Callable[[int], None]) -> list[Row]:
        """The rows with their answers.

        Raises:
            ConfigError: as `check_names`. DataError: a row cannot be asked; the message names it and the fix.
        """
        for where, number, row in rows:
            self.check_names(f"{where} row {number}", row)
        found = self._written(predictor, rows, told) if self.generates else self._labelled(predictor, rows, told)
        return [
            {**row, **dict(zip(self.names, each, strict=True))} for (*_, row), each in zip(rows, found, strict=True)
        ]

    def of_texts(self, predictor: "Predictor", texts: Sequence[str]) -> list[Row]:
        """Texts and their answers, as rows. Raises as `answers`."""
        if self.known is not None and self.generates:
            found = [as_cells(each) for each in predictor.generate(texts, task=self.known.task.name)]
        else:
            found = [as_cells(each) for each in self._classified(predictor, texts, lambda _: None)]
        return [
            {"text": text, **dict(zip(self.names, each, strict=True))} for text, each in zip(texts, found, strict=True)
        ]

    def _labelled(self, predictor: "Predictor", rows: Sequence[Asked], told: Any) -> list[Sequence[JsonLike]]:
        texts = [text_of(self.name, self.asked, *each) for each in rows]
        return [as_cells(each) for each in self._classified(predictor, texts, told)]

    def _classified(self, predictor: "Predictor", texts: Sequence[str], told: Any) -> "list[Labelled]":
        if self.known is None:
            return predictor.classify(texts, union=True, told=told)
        return predictor.classify(texts, task=self.known.task.name, told=told)

    def _written(self, predictor: "Predictor", rows: Sequence[Asked], told: Any) -> list[Sequence[JsonLike]]:
        assert self.known is not None
        asked = [source_row(self.known, self.of_format, *each) for each in rows]
        return [as_cells(each) for each in predictor.answer_rows(asked, self.known, told)]


def as_cells(answer: "Labelled | Written") -> Sequence[JsonLike]:
    """An answer as the cells of its columns."""
    values = vars(answer).values()
    return [(dict(each) or None) if isinstance(each, dict) else each for each in values]


def answered(predictor: "Callable[[], Predictor]", asking: Asking, inputs: Sequence[Path]) -> Iterator[Row]:
    """The rows of files with their answers, which are kept nowhere. Raises as `Asking.answers` and `Asking.check`."""
    asking.check_files(inputs)
    size = ROWS_AT_ONCE["texts" if asking.generates else "labels"]
    for rows in chunks(read(asking.name, inputs), size):
        yield from asking.answers(predictor(), rows, lambda _: None)


def check_columns(known: Known | None, columns: Mapping[str, str]) -> None:
    """Raises ConfigError if a name is none of the task's columns."""
    form: str | None = known.task.form if known and known.generative else None  # type: ignore[union-attr]
    there = COLUMNS[form] if form else ("text", "label")
    for name in columns:
        if name not in there:
            raise ConfigError(
                f"--columns {name}={columns[name]}: there are {', '.join(there)}{did_you_mean(name, there)}"
            )


def text_of(task: str, column: str, where: str, number: int, row: Row) -> str:
    """The text of a row, empty if it is null. Raises DataError if it is no string."""
    if column not in row:
        raise DataError(
            f"task {task}: {where} row {number}: has no column {column!r}, only {listed(row) or 'none'}; add it"
        )
    value = row[column]
    if value is not None and not (isinstance(value, str) and encodes(value)):
        fix = "repair it" if isinstance(value, str) else "quote it"
        raise DataError(f"task {task}: {where} row {number}: {column} {shown(value)} is not a string; {fix}")
    return value or ""


# ---------------------------------------------------------------- files


class Done(NamedTuple):
    """Rows of an output, how many of them were answered before this run, and to how many of the others there was no
    answer: they have no text, or what was generated is no label."""

    rows: int
    before: int
    unanswered: int


class Part(NamedTuple):
    """What is answered of a part: its number, its bytes in the form of parts, its rows, and how many have no answer."""

    number: int
    data: bytes
    rows: int
    unanswered: int


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """A prediction over files, into a file `output` of a form, of which a `mirror` is kept in a bucket. `reference` and
    `manifest_sha256` tell the version."""

    asking: Asking
    reference: str
    manifest_sha256: str
    inputs: Sequence[Path]
    output: Path
    form: str
    options: Mapping[str, JsonLike] = field(default_factory=dict)
    mirror: Mirror | None = None

    @property
    def rows_at_once(self) -> int:
        """Rows of a part."""
        return ROWS_AT_ONCE["texts" if self.asking.generates else "labels"]

    @property
    def parts(self) -> Parts:
        """What is answered so far."""
        return Parts(output=self.output, form=self.form, size=self.rows_at_once, mirror=self.mirror)

    @cached_property
    def job(self) -> dict[str, JsonLike]:
        """What tells this prediction from others."""
        return {
            "adapter": self.reference,
            "manifest_sha256": self.manifest_sha256,
            "task": self.asking.name,
            "columns": dict(self.asking.columns),
            "prefix": self.asking.prefix,
            "rows_at_once": self.rows_at_once,
            "form": self.form,
            "inputs": [*map(file_digest, self.inputs)],
            **self.options,
        }

    def check(self, *, replace: bool) -> None:
        """Checks the first row of each input and that the output may be written; begins the folder of parts.

        Raises:
            ConfigError: the output is a folder, or exists and is not to be replaced; parts of another job are there;
                another process writes them; or no folder can be made there. DataError: as `Asking.check`, or an input
                cannot be read. StoreError: the output's bucket cannot be read or written.
        """
        self.asking.check_files(self.inputs)
        self.parts.check(replace=replace)
        with self.parts.alone():
            self.parts.begin(self.job)

    def missing(self, there: Container[int]) -> Iterator[tuple[int, list[Asked]]]:
        """The rows of each part that is not there, and its number from 0. Raises DataError if a file cannot be read."""
        for number, rows in enumerate(chunks(read(self.asking.name, self.inputs), self.rows_at_once)):
            if number not in there:
                yield number, rows

    def answered(self, predictor: "Predictor", number: int, rows: Sequence[Asked], told: Callable[[int], None]) -> Part:
        """The answers to the rows of a part. Raises as `Asking.answers`."""
        return self.part(number, self.asking.answers(predictor, rows, told))

    def part(self, number: int, found: Sequence[Row]) -> Part:
        """A part of these rows with their answers."""
        unanswered = sum(row[self.asking.names[0]] is None for row in found)
        return Part(number, part_of(self.form, found), len(found), unanswered)

    def run(self, predictor: "Callable[[], Predictor]", told: Told = lambda *_: None) -> Done:
        """Answers in this process what is not answered yet, and writes the output. `predictor` is called if anything is
        left to do. Raises as `Asking.answers` and `Parts.alone`."""

        def answers(there: Container[int], done: Counted) -> Iterator[tuple[int, list[Row]]]:
            for number, rows in ahead(self.missing(there)):
                model = predictor()
                done(0)
                yield number, self.asking.answers(model, rows, done)

        return self.filled(lambda there, done: behind(answers(there, done), lambda each: self.part(*each)), told)

    def filled(self, found: "Callable[[Container[int], Counted], Iterable[Part]]", told: Told) -> Done:
        """Keeps the missing parts that `found` gives, in any order, and writes the output. `found` is given the numbers
        of those that are there, and may tell of more rows before their part is done."""
        parts = self.parts
        with parts.alone():
            parts.begin(self.job)
            there = parts.there()
            done, unanswered, count = Counted(0, sum(there.values()), told), 0, len(there)
            now = 0
            for part in found(there, done):
                parts.put(part.number, part.data)
                now, unanswered, count = now + part.rows, unanswered + part.unanswered, count + 1
                done(now - done.now)
            parts.finish(count)
        return Done(now + done.before, done.before, unanswered)


@dataclass
class Counted:
    """Tells how many rows are done, batch by batch."""

    now: int
    before: int
    told: Told

    def __call__(self, more: int) -> None:
        """So many more."""
        self.now += more
        self.told(self.now, self.before)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items; a thread makes the next one while one is in use."""
    left, none = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Any] = thread.submit(next, left, none)
        while (item := coming.result()) is not none:
            coming = thread.submit(next, left, none)
            yield item


def behind(items: Iterable[T], make: Callable[[T], U]) -> Iterator[U]:
    """What `make` gives of each item; a thread makes it while the next item comes. If that one fails, what was made
    before is given first."""
    left, made = iter(items), None
    with ThreadPoolExecutor(1) as thread:
        while True:
            try:
                coming = [*islice(left, 1)]
            except Exception:
                if made is not None:
                    yield made.result()
                raise
            if made is not None:
                yield made.result()
            if not coming:
                return
            made = thread.submit(make, coming[0])


def chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` rows; the last one may be shorter."""
    left = iter(rows)
    while part := [*islice(left, size)]:
        yield part
