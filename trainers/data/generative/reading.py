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
from cluster.text_files import NotUtf8, check_regular, in_utf8, opened
from trainers.data import formats
from trainers.data.files import copied, data_files, joint_name, named, once
from trainers.data.generative.config import GenerativeFilesTask, GenerativeHubTask
from trainers.data.sources import FORMS, HUB_FIX, as_list, form_of, listed, quiet, suffix_of
from trainers.data.tables import HubDataset, Looked, as_data_error

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
    found = [named_files(task.name, key, name, scratch / str(number)) for number, name in enumerate(names)]
    called = dict(reversed([*chain.from_iterable(found)]))  # by path; of names of one path the first counts
    paths: Named = [(path, called[path]) for path in once(path for each in found for path, _ in each)]

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
    with readable(task, where), in_utf8(path):
        for number, row in enumerate(readers[form_of(path) or ""](task, where, path), start=1):
            yield where, number, row


@contextmanager
def readable(task: str, where: str) -> Iterator[None]:
    """Turns what readers raise into one DataError."""
    try:
        yield
    except DataError:
        raise
    except NotUtf8 as error:
        raise DataError(f"task {task}: {where} cannot be read ({error}); save it as UTF-8") from None
    except Exception as error:  # pyarrow, csv and the disk raise many kinds
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"task {task}: {where} cannot be read ({said[:200]}); repair the file") from None


def parsed(task: str, where: str, text: str) -> Any:
    """A JSON text. Raises DataError if it is none."""
    try:
        return formats.decoded(text, formats.STRICT)
    except ValueError as error:
        raise DataError(f"task {task}: {where} is not readable JSON ({error}); repair the file") from None


def json_rows(task: str, where: str, path: Path) -> Iterator[Any]:  # noqa: ARG001
    """The rows that `formats` finds; of a file of one mapping, which holds one list and that no conversation, the
    values of the list."""
    with closing(opened(path)) as file:
        rows = formats.json_rows(file, formats.STRICT)
        first = [*islice(rows, 2)]
        if len(first) == 1 and isinstance(first[0], dict) and len(first[0]) == 1:
            ((name, held),) = first[0].items()
            first = held if isinstance(held, list) and name not in ("messages", "conversations") else first
        yield from chain(first, rows)


def csv_rows(task: str, where: str, path: Path, separator: str) -> Iterator[Any]:
    """Rows by the header, every value as it is written; a row that is cut short is filled up with empty strings."""
    with closing(opened(path)) as file, formats.long_fields():
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

    check_regular(path)
    with pq.ParquetFile(path) as file:
        for index, batch in enumerate(file.iter_batches(batch_size=PARQUET_ROWS)):
            with formats.in_rows(batch, index * PARQUET_ROWS):
                rows = batch.to_pylist()
            yield from rows


# ---------------------------------------------------------------- through `datasets`


def hub_sources(task: GenerativeHubTask, scratch: Path) -> dict[str, Source]:
    """The splits of a data set: a hub id through the user's cache of `datasets`, a local folder anew.

    Raises:
        DataError: the data set or a split cannot be loaded.
    """
    import datasets

    found, looked = {}, Looked(task, (), str(scratch) if task.is_folder else None)
    with quiet(datasets):
        for key, (split, where) in task.splits.items():
            with as_data_error(task, where, HUB_FIX):
                found[key] = hub_source(task, where, split, looked)
    return found


def hub_source(task: GenerativeHubTask, where: str, split: str, looked: Looked) -> Source:
    """A split as `datasets` has it, also of a folder that its `save_to_disk` wrote. JSON is read as it is written, not
    by pyarrow, which ends the process at a file whose first value is null."""
    from datasets import load_dataset

    if (saved := looked.saved_split(split)) is not None:
        return table_source(task.name, where, saved)
    if looked.dataset.form == "json":
        return json_source(task.name, where, split, looked.dataset)
    table = load_dataset(task.dataset, task.config_name, split=split, cache_dir=looked.cache)
    return table_source(task.name, where, table)


def json_source(task: str, where: str, split: str, dataset: HubDataset) -> Source:
    """A split, which may be put together of slices, of a data set whose files hold JSON."""
    from datasets import ReadInstruction

    named = map(str, dataset.builder.config.data_files)
    paths = {name: dataset.files(name) for name in named if name in split}

    def of(name: str) -> Iterator[Any]:
        return chain.from_iterable(json_rows(task, where, path) for path in paths[name])

    parts: list[tuple[str, int, int | None]] = [(split, 0, None)]
    if split not in paths:
        sizes = {name: sum(1 for _ in of(name)) for name in paths}
        found = ReadInstruction.from_spec(split).to_absolute(sizes)
        parts = [(part.splitname, part.from_, part.to) for part in found]

    def rows() -> Rows:
        with readable(task, where):
            every = chain.from_iterable(islice(of(name), start, stop) for name, start, stop in parts)
            yield from ((where, number, row) for number, row in enumerate(every, start=1))

    files = [path for each in paths.values() for path in each]
    return Source(where, rows, f"{file_digest(files)} {parts}", sum(path.stat().st_size for path in files))


def table_source(task: str, where: str, table: Any) -> Source:
    """A split that `datasets` has loaded."""

    def rows() -> Rows:
        with readable(task, where):
            yield from ((where, number, row) for number, row in enumerate(table, start=1))

    return Source(
        where, rows, f"{table._fingerprint} {len(table)} {listed(table.column_names)}", int(table.data.nbytes)
    )
