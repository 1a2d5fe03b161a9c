"""Where a task's rows come from: the `tasks` entries of the configuration, and reading each kind without cleaning."""

import csv
import glob
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from cluster.errors import DataError
from cluster.resources import TaskResources
from cluster.schema import Frozen
from cluster.words import nearest
from trainers.config import Positive
from trainers.data.docstrings import DocstringTask, docstring_rows

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}  # file suffix: `datasets` builder
LISTED = 12  # how many names an error message lists


class TaskBase(Frozen):
    """What every task has.

    The row limits override those of the `data` section. `instruction` overrides the benchmark's in a prompt, and
    `resources` override the `cluster` section. `objective` says what tasks of this source are trained on and judged by,
    see `trainers.objectives.known`.
    """

    objective: ClassVar[str] = "classification"

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    instruction: str | None = None
    max_train_rows: Positive | None = None
    max_test_rows: Positive | None = None
    resources: TaskResources | None = None


class DocstringsTask(TaskBase):
    """A built-in task over the docstrings of installed libraries; see `trainers.data.docstrings`."""

    source: Literal["docstrings"]
    task: DocstringTask


class ClBenchmarkTask(TaskBase):
    """A dataset of a CL_Benchmark checkout: `<data_dir>/<category>/<dataset>/{train,test,labels}.json`.

    `dataset` is `<category>/<dataset>`. A dev.json is ignored: in the original it is the test file.
    """

    source: Literal["cl_benchmark"]
    dataset: str


class ColumnsTask(TaskBase):
    """A table with a text and a label column. `labels` gives the label words in order.

    If no label is a number, whole-number values of the label column are indices into `labels`.
    """

    text_column: str = "text"
    label_column: str = "label"
    labels: tuple[str, ...] | None = None


class FilesTask(ColumnsTask):
    """Local .jsonl, .json, .csv or .parquet files, read anew by `datasets` each time."""

    source: Literal["files"]
    train: Path
    test: Path
    validation: Path | None = None

    @field_validator("train", "test", "validation")
    @classmethod
    def _known_suffix(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix not in BUILDERS:
            raise ValueError(f"{str(value)!r} ends in {value.suffix!r}; use one of {', '.join(BUILDERS)}")
        return value


class HubTask(ColumnsTask):
    """Any id that `datasets.load_dataset` takes: a Hugging Face hub id, or a local dataset folder."""

    source: Literal["hub"]
    dataset: str
    config_name: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    validation_split: str | None = None


TaskConfig = Annotated[DocstringsTask | ClBenchmarkTask | FilesTask | HubTask, Field(discriminator="source")]


@dataclass(frozen=True)
class Split:
    """Rows as read: `texts` and `labels` of equal length, of any type; `where` names them in error messages."""

    where: str
    texts: Sequence[Any]
    labels: Sequence[Any]


@dataclass(frozen=True)
class RawTask:
    """The splits of one task; `labels` is None if they are to be taken from the training rows."""

    labels: tuple[str, ...] | None
    train: Split
    validation: Split | None
    test: Split


def did_you_mean(value: object, options: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the option closest to `value`, whole or after its last slash, in any case.

    Empty if no option is close.
    """
    known = {form.casefold(): option for option in options for form in (option.rsplit("/", 1)[-1], option)}
    near = nearest(str(value).casefold(), known, cutoff=0.6)
    return f"; did you mean {known[near]!r}?" if near else ""


def listed(options: Iterable[str]) -> str:
    """The options as one comma-separated string, cut after the first dozen."""
    names = list(options)
    return ", ".join(names[:LISTED]) + (f", … ({len(names)} in all)" if len(names) > LISTED else "")


def shown(value: object) -> str:
    """repr of a value, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def read_docstrings(task: DocstringsTask, seed: int) -> RawTask:
    """The built-in task; selection and split are drawn by `seed`."""
    labels, train, test = docstring_rows(task.task, seed)
    splits = [
        Split(f"{key} rows of docstrings/{task.task}", [text for text, _ in rows], [label for _, label in rows])
        for key, rows in (("train", train), ("test", test))
    ]
    return RawTask(labels, splits[0], None, splits[1])


# ---------------------------------------------------------------- through `datasets`


def read_files(task: FilesTask) -> RawTask:
    """The configured files. The cache of `datasets` is deleted afterwards, so a changed file is always read anew."""
    paths = {"train": task.train, "validation": task.validation, "test": task.test}
    with quiet(), TemporaryDirectory(prefix="orthoplex-data-") as cache:
        return table_task(task, {key: load_file(task, key, path, cache) for key, path in paths.items() if path})


def read_hub(task: HubTask) -> RawTask:
    """The configured splits: a hub id through the user's cache of `datasets`, a local folder always anew."""
    from datasets import load_dataset

    names = {"train": task.train_split, "validation": task.validation_split, "test": task.test_split}
    tables = {}
    with quiet(), TemporaryDirectory(prefix="orthoplex-data-") as scratch:
        cache = scratch if Path(task.dataset).is_dir() else None
        for key, split in names.items():
            if split:
                where = f"{key}_split {split!r} of dataset {task.dataset!r}"
                fix = "check the id, config_name and split, or download it on a machine that has network access"
                with as_data_error(task, where, fix):
                    table = load_dataset(task.dataset, task.config_name, split=split, cache_dir=cache)
                tables[key] = (where, table)
        return table_task(task, tables)


def load_file(task: FilesTask, key: str, path: Path, cache: str) -> tuple[str, Any]:
    """(name for errors, `datasets.Dataset`) of one file."""
    from datasets import Features, Value, load_dataset

    path = path.expanduser()
    where = f"{key} {str(path)!r}"
    if not path.is_file() or not path.stat().st_size:
        state = "is empty" if path.is_file() else "does not exist"
        raise DataError(f"task {task.name}: {where} {state}; correct the path under `{key}`")
    builder = BUILDERS[path.suffix]
    options: dict[str, Any] = {}
    with as_data_error(task, where, "repair the file"):
        if builder == "csv":
            # Read as written: no column type is guessed, and "NA" or "null" is a string like any other.
            check_columns(task, where, csv_columns(task, where, path))
            columns = [task.text_column, task.label_column]
            text_only = Features({column: Value("string") for column in columns})
            options = {"usecols": columns, "features": text_only, "na_filter": False}
        pattern = glob.escape(str(path.resolve()))
        return where, load_dataset(builder, data_files=pattern, split="train", cache_dir=cache, **options)


def csv_columns(task: FilesTask, where: str, path: Path) -> list[str]:
    """The header. Raises DataError if a row is longer, since pandas would silently shift or cut such a row."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = (row for row in csv.reader(file) if row)
            header = next(rows, [])
            number = 0
            for number, row in enumerate(rows, start=1):
                if len(row) > len(header):
                    raise DataError(
                        f"task {task.name}: {where} row {number} has {len(row)} fields, the header {len(header)}; "
                        "quote texts that contain a comma"
                    )
    finally:
        csv.field_size_limit(limit)
    if not number:
        raise DataError(f"task {task.name}: {where} has no row below its header; add rows")
    return header


def check_columns(task: ColumnsTask, where: str, columns: Sequence[str]) -> None:
    """Raises DataError if the text or label column is absent."""
    for key, column in (("text_column", task.text_column), ("label_column", task.label_column)):
        if column not in columns:
            hint = did_you_mean(column, columns)
            raise DataError(
                f"task {task.name}: {key} {column!r} is not a column of {where}; "
                f"set {key} to one of: {listed(columns)}{hint}"
            )


def table_task(task: ColumnsTask, tables: dict[str, tuple[str, Any]]) -> RawTask:
    """Splits of (name for errors, `datasets.Dataset`) by key; class indices become class names."""
    splits = {}
    for key, (where, table) in tables.items():
        check_columns(task, where, table.column_names)
        names = class_names(table, task.label_column)
        values = table[task.label_column][:]
        labels = [names[v] if v is not None and 0 <= v < len(names) else v for v in values] if names else values
        splits[key] = Split(where, table[task.text_column][:], labels)
    words = task.labels or class_names(tables["train"][1], task.label_column)
    return RawTask(words, splits["train"], splits.get("validation"), splits["test"])


def class_names(table: Any, column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel column; None for any other."""
    names = getattr(table.features[column], "names", None)
    return tuple(names) if names else None


@contextmanager
def as_data_error(task: TaskBase, where: str, fix: str) -> Iterator[None]:
    """Turns whatever `datasets`, pandas or pyarrow raise into one DataError without their traceback."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"task {task.name}: {where} cannot be read ({lines[0]}); {fix}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silences progress bars, logs and warnings of `datasets` and `huggingface_hub` within the block."""
    import datasets
    import huggingface_hub.utils as hub

    bars: list[tuple[Callable[[], None], Callable[[], None]]] = [
        (module.disable_progress_bars, module.enable_progress_bars)
        for module in (datasets, hub)
        if not module.are_progress_bars_disabled()
    ]
    loggers = {name: logging.getLogger(name) for name in ("datasets", "huggingface_hub")}
    levels = {name: logger.level for name, logger in loggers.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for disable, _ in bars:
                disable()
            for logger in loggers.values():
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for _, enable in bars:
                enable()
            for name, logger in loggers.items():
                logger.setLevel(levels[name])
