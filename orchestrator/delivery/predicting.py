"""Answers to the rows of files: `orthoplex predict`. What is done is kept in parts, so that a cut run goes on.

    OUTPUT.parts/job.json          what is predicted from what: another job does not go on with these parts
    OUTPUT.parts/00000012.jsonl    rows 12·n to 13·n with their answers, n = `rows_at_once`; .parquet for Parquet

A part appears whole. When all are there they are joined to OUTPUT, which appears whole too, and the folder is removed.
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cluster.errors import ConfigError, DataError
from cluster.folders import file_digest
from orchestrator.delivery.repertoire import Known, columns_of, source_row, text_column
from orchestrator.delivery.tables import Row, join, part_form, read, replacing, write_part
from orchestrator.log.entry import JsonLike
from trainers.data.cleaning import encodes
from trainers.data.generative.config import COLUMNS
from trainers.data.sources import REQUIRED, did_you_mean, listed, shown

if TYPE_CHECKING:
    from orchestrator.delivery.predictor import Predictor
    from trainers.objectives.answering import Labelled, Written

T = TypeVar("T")
ROWS_AT_ONCE = {"labels": 2_000, "texts": 200}  # in a part: about as many as a machine answers in half a minute
JOB, LOCK = "job.json", "lock"
LABELLED, WRITTEN = ("label", "probability", "scores"), ("answer", "logprob", "finish_reason")
Told = Callable[[int, int], None]  # rows that are done, in this run and before it


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is done with a row: `known` is the task, None for the labels of all tasks. `columns` says which columns of
    the data have other names than the task gives them; answers stand under names that begin with `prefix`."""

    known: Known | None
    columns: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""

    @property
    def generates(self) -> bool:
        """Whether answers are texts."""
        return self.known is not None and self.known.generative

    @property
    def name(self) -> str:
        """The task's name in messages."""
        return self.known.task.name if self.known else "all"

    @property
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

    def answers(
        self, predictor: "Predictor", rows: Sequence[tuple[str, int, Row]], told: Callable[[int], None]
    ) -> list[Row]:
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

    def _labelled(
        self, predictor: "Predictor", rows: Sequence[tuple[str, int, Row]], told: Any
    ) -> list[Sequence[JsonLike]]:
        texts = [text_of(self.name, self.asked, *each) for each in rows]
        return [as_cells(each) for each in self._classified(predictor, texts, told)]

    def _classified(self, predictor: "Predictor", texts: Sequence[str], told: Any) -> "list[Labelled]":
        if self.known is None:
            return predictor.classify(texts, union=True, told=told)
        return predictor.classify(texts, task=self.known.task.name, told=told)

    def _written(
        self, predictor: "Predictor", rows: Sequence[tuple[str, int, Row]], told: Any
    ) -> list[Sequence[JsonLike]]:
        assert self.known is not None
        asked = [source_row(self.known, self.of_format, *each) for each in rows]
        return [as_cells(each) for each in predictor.answer_rows(asked, self.known, told)]


def as_cells(answer: "Labelled | Written") -> Sequence[JsonLike]:
    """An answer as the cells of its columns."""
    values = vars(answer).values()
    return [(dict(each) or None) if isinstance(each, Mapping) else each for each in values]


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


# ---------------------------------------------------------------- parts


class Done(NamedTuple):
    """Rows of an output, how many of them were answered before this run, and to how many of the others there was no
    answer: they have no text, or what was generated is no label."""

    rows: int
    before: int
    unanswered: int


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """A prediction over files, into a file `output` of a form. `reference` and `manifest_sha256` tell the version."""

    asking: Asking
    reference: str
    manifest_sha256: str
    inputs: Sequence[Path]
    output: Path
    form: str
    options: Mapping[str, JsonLike] = field(default_factory=dict)

    @property
    def rows_at_once(self) -> int:
        """Rows of a part."""
        return ROWS_AT_ONCE["texts" if self.asking.generates else "labels"]

    @property
    def folder(self) -> Path:
        """Where parts are kept."""
        return self.output.with_name(f"{self.output.name}.parts")

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
                cannot be read.
        """
        self.asking.check_files(self.inputs)
        if self.output.is_dir():
            raise ConfigError(f"--output {str(self.output)!r}: is a folder; name a file")
        if self.output.exists() and not replace and not self.folder.exists():
            raise ConfigError(
                f"--output {str(self.output)!r}: exists already; choose another, or replace it with --force"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--output {str(self.output)!r}: cannot be written ({error.strerror}); choose another"
            ) from None
        with self.alone():
            self._begin()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within the block no other process writes these parts. Raises ConfigError if one does, or has finished."""
        try:
            file = (self.folder / LOCK).open("a")
        except FileNotFoundError:
            raise ConfigError(
                f"{str(self.folder)!r}: another process has finished, or removed it; start again"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{str(self.folder)!r}: another process is writing it; wait for its end, or choose another --output"
                ) from None
            yield

    def _begin(self) -> None:
        """Begins the folder of parts, or goes on with one of this prediction. One without any part is begun anew."""
        mine, path = json.loads(json.dumps(self.job)), self.folder / JOB
        if not path.exists() or not any(self.folder.glob("[0-9]*")):
            with replacing(path) as staging:
                staging.write_text(json.dumps(mine, indent=1), "utf-8")
            return
        theirs = json.loads(path.read_text("utf-8"))
        if changed := [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]:
            raise ConfigError(
                f"{str(self.folder)!r} holds the beginning of another prediction ({', '.join(changed)} differ); finish "
                "that one, remove the folder, or choose another --output"
            )

    def part(self, number: int) -> Path:
        """The file of a part, numbered from 0."""
        return self.folder / f"{number:08}.{part_form(self.form)}"

    def run(self, predictor: "Callable[[], Predictor]", told: Told = lambda *_: None) -> Done:
        """Answers what is not answered yet, and writes the output. `predictor` is called if anything is left to do.
        Raises as `Asking.answers` and `alone`."""
        with self.alone():
            return self._answer(predictor, told)

    def _answer(self, predictor: "Callable[[], Predictor]", told: Told) -> Done:
        self._begin()
        parts, before, now, empty = list[Path](), 0, 0, 0
        for number, rows in enumerate(chunks(read(self.asking.name, self.inputs), self.rows_at_once)):
            parts.append(self.part(number))
            if parts[-1].exists():
                before += len(rows)
                told(now, before)
                continue
            model = predictor()
            told(now, before)
            found = self.asking.answers(model, rows, Counted(now, before, told))
            write_part(parts[-1], self.form, found)
            now += len(rows)
            empty += sum(row[self.asking.names[0]] is None for row in found)
            told(now, before)
        join(parts, self.output, self.form)
        shutil.rmtree(self.folder)
        return Done(now + before, before, empty)


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


def chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` rows; the last one may be shorter."""
    left = iter(rows)
    while part := [*islice(left, size)]:
        yield part
