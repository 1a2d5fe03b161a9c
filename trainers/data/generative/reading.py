"""Rows of generative tasks as they stand in files, folders, object stores and data sets, one after the other.

Files are read row by row; nothing but a list in a .json file is held whole. Text files may be compressed.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cluster.errors import DataError, StoreError
from trainers.data import formats
from trainers.data.files import copied, data_files, joint_name, named
from trainers.data.generative.config import GenerativeFilesTask, GenerativeHubTask
from trainers.data.sources import FORMS, HUB_FIX, as_list, form_of, listed, quiet, suffix_of
from trainers.data.tables import as_data_error, saved_split

PARQUET_ROWS = 1_000  # read at once
Rows = Iterator[tuple[str, int, Any]]
Named = list[tuple[Path, str]]  # files, each with what messages call it


@dataclass(frozen=True)
class Source:
    """One split as it is read. `rows` yields (where, number from 1, row) anew per call; `digest` is of what it reads,
    `size` its bytes. `where` names it in messages."""

    where: str
    rows: Callable[[], Rows]
    digest: str
    size: int


def file_sources(task: GenerativeFilesTask, scratch: Path) -> dict[str, Source]:
    """The splits of a task of files; those of an object store are copied to `scratch`.

    Raises:
        DataError: a file is absent, empty, or not what its name says.
    """
    named = {"train": task.train, "validation": task.validation, "test": task.test}
    return {key: file_source(task, key, as_list(given), scratch / key) for key, given in named.items() if given}


def file_source(task: GenerativeFilesTask, key: str, names: Sequence[str], scratch: Path) -> Source:
    """One split: the files that are named, one after the other."""
    where = joint_name([f"{key} {name!r}" for name in names])
    paths: Named = []
    for number, name in enumerate(names):
        paths += named_files(task.name, key, name, scratch / str(number))

    def rows() -> Rows:
        for path, shown_as in paths:
            yield from read_file(task.name, shown_as if len(paths) > 1 else where, path)

    with as_data_error(task, where, "repair the file"):
        digest = file_digest([path for path, _ in paths])
    return Source(where, rows, digest, sum(path.stat().st_size for path, _ in paths))


def named_files(task: str, key: str, name: str, scratch: Path) -> Named:
    """The files that one path, pattern or URI names."""
    if name.startswith("s3://"):
        return fetched(task, f"{key} {name!r}", name, scratch)
    return data_files(task, key, [name])


def fetched(task: str, where: str, uri: str, scratch: Path) -> Named:
    """Copies of what a URI names."""
    try:
        copies = copied(uri, scratch)
    except StoreError as error:
        raise DataError(f"task {task}: {where} cannot be read ({error}); correct the URI") from None
    if not copies:
        raise DataError(f"task {task}: {where} holds no object that ends in {', '.join(FORMS)}; correct the URI")
    return [(path, f"{where.split(maxsplit=1)[0]} {named(path)!r}") for path in copies]


def file_digest(paths: Sequence[Path]) -> str:
    """sha256, hexadecimal, over the bytes of files in order."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(suffix_of(path).encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


# ---------------------------------------------------------------- one file


def read_file(task: str, where: str, path: Path) -> Rows:
    """(where, number, row) of each row of a file. Raises DataError if the file is not what its name says."""
    readers: dict[str, Callable[..., Iterator[Any]]] = {"json": json_rows, "parquet": parquet_rows}
    readers |= {form: partial(csv_rows, separator=separator) for form, separator in formats.SEPARATORS.items()}
    with readable(task, where):
        for number, row in enumerate(readers[form_of(path) or ""](task, where, path), start=1):
            yield where, number, row


@contextmanager
def readable(task: str, where: str) -> Iterator[None]:
    """Turns what readers raise into one DataError."""
    try:
        yield
    except DataError:
        raise
    except UnicodeDecodeError as error:
        found = f"{where} is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start})"
        raise DataError(f"task {task}: {found}; save it as UTF-8") from None
    except Exception as error:  # pyarrow, csv and the disk raise many kinds
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"task {task}: {where} cannot be read ({said[:200]}); repair the file") from None


def parsed(task: str, where: str, text: str) -> Any:
    """A JSON text. Raises DataError if it is none."""
    try:
        return formats.STRICT.decode(text)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"task {task}: {where} is not readable JSON ({said}); repair the file") from None


def json_rows(task: str, where: str, path: Path) -> Iterator[Any]:  # noqa: ARG001
    """The rows that `formats` finds; of a file of one mapping, which holds one list and that no conversation, the
    values of the list."""
    with closing(formats.opened(path)) as file:
        rows = formats.json_rows(file, formats.STRICT)
        first = [*islice(rows, 2)]
        if len(first) == 1 and isinstance(first[0], dict) and len(first[0]) == 1:
            ((name, held),) = first[0].items()
            first = held if isinstance(held, list) and name not in ("messages", "conversations") else first
        yield from chain(first, rows)


def csv_rows(task: str, where: str, path: Path, separator: str) -> Iterator[Any]:
    """Rows by the header, every value as it is written; a row that is cut short is filled up with empty strings."""
    with closing(formats.opened(path)) as file, formats.long_fields():
        rows = formats.csv_rows(file, separator)
        header, number = next(rows, []), 0
        formats.check_once(header, header)
        for number, row in enumerate(rows, start=1):
            if len(row) > len(header):
                raise DataError(f"task {task}: {where} row {number} {formats.too_many(row, header, separator)}")
            yield dict(zip(header, [*row, *[""] * (len(header) - len(row))], strict=True))
        if not number:
            raise DataError(f"task {task}: {where} has no row below its header; add rows")


def parquet_rows(task: str, where: str, path: Path) -> Iterator[Any]:  # noqa: ARG001
    """Rows of a Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            yield from batch.to_pylist()


# ---------------------------------------------------------------- through `datasets`


def hub_sources(task: GenerativeHubTask, scratch: Path) -> dict[str, Source]:
    """The splits of a data set: a hub id through the user's cache of `datasets`, a local folder anew.

    Raises:
        DataError: the data set or a split cannot be loaded.
    """
    found = {}
    with quiet():
        for key, (split, where) in task.splits.items():
            with as_data_error(task, where, HUB_FIX):
                found[key] = table_source(where, loaded(task, split, str(scratch) if task.is_folder else None))
    return found


def loaded(task: GenerativeHubTask, split: str, cache: str | None) -> Any:
    """A split as `datasets` has it, also of a folder that its `save_to_disk` wrote."""
    from datasets import load_dataset

    saved = saved_split(task, split)
    return load_dataset(task.dataset, task.config_name, split=split, cache_dir=cache) if saved is None else saved


def table_source(where: str, table: Any) -> Source:
    """A split that `datasets` has loaded."""

    def rows() -> Rows:
        return ((where, number, row) for number, row in enumerate(table, start=1))

    return Source(
        where, rows, f"{table._fingerprint} {len(table)} {listed(table.column_names)}", int(table.data.nbytes)
    )
