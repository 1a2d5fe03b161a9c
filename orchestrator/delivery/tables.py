"""Rows in files: read one after the other, written whole or not at all, joined to one file without holding them all."""

import csv
import errno
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ConfigError, DataError, StoreError
from cluster.finite import finite
from cluster.text_files import at_home, quoted
from orchestrator.log.entry import JsonLike
from trainers.data.cleaning import encodes
from trainers.data.files import S3, copied, matching, named, once, within
from trainers.data.generative.reading import read_file
from trainers.data.sources import FORMS, absent, form_of

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, JsonLike]
CHUNK_BYTES = 1 << 20
STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str)
WRITTEN = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}  # forms by the end of a file's name


def found(patterns: Sequence[str], option: str, scratch: Path) -> list[Path]:
    """The files that paths and patterns such as `new/*.csv` name, each once, those of a pattern or a folder in the
    order of their names. What `s3://` names is copied into `scratch`.

    Raises:
        DataError: a path names nothing, or a file that is no table; `option` is what it was given as.
    """
    files: list[Path] = []
    for pattern in patterns:
        try:
            there = objects(pattern, option, scratch) if pattern.startswith(S3) else matching(pattern)
        except (OSError, ValueError) as error:  # as of a path that is too long
            raise DataError(f"{option} {quoted(pattern)}: cannot be read ({error}); correct the path") from None
        if not there:
            raise DataError(f"{option} {pattern!r}: {absent(at_home(pattern))}; correct the path")
        for each in (file for path in there for file in within(path) or [path]):
            if form_of(each) is None or not each.is_file():
                raise DataError(
                    f"{option} {named(each)!r}: is no file that ends in {', '.join(FORMS)}; name such files"
                )
            files.append(each)
    return once(files)


def objects(uri: str, option: str, scratch: Path) -> list[Path]:
    """Copies of what a URI names. Raises DataError if that is nothing, or cannot be read."""
    try:
        copies = copied(uri, scratch)
    except (StoreError, ConfigError) as error:
        raise DataError(f"{option} {uri!r}: cannot be read ({error}); correct the URI") from None
    if not copies:
        raise DataError(f"{option} {uri!r}: names no object that ends in {', '.join(FORMS)}; correct the URI")
    return copies


def read(task: str, paths: Sequence[Path]) -> Iterator[tuple[str, int, Row]]:
    """(file, number from 1, row) of every row. Raises DataError if a file is not what its name says, or a row is no
    mapping; messages begin with the task."""
    for path in paths:
        for where, number, row in read_file(task, repr(named(path)), path) if path.stat().st_size else ():
            if not isinstance(row, Mapping):
                raise DataError(f'task {task}: {where} row {number} is no mapping; write rows as {{"column": value}}')
            yield where, number, row


def form_to_write(path: Path, form: str | None, option: str) -> str:
    """The form of a file to write: the given one, else that of its name. Raises ConfigError if neither says it."""
    known = form or WRITTEN.get(path.suffix)
    if known is None:
        raise ConfigError(
            f"{option} {named(path)!r}: ends in {path.suffix!r}; use one of {', '.join(WRITTEN)}, or say it with "
            "--format"
        )
    return known


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, whose file becomes it when the block ends. If the block fails, nothing is left. Raises
    OSError if it cannot be, as a folder cannot."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield staging
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def line(row: Row) -> str:
    """A row as a line of JSON: what JSON lacks becomes null, or a string."""
    text = line_of(dict(row))
    return (text if encodes(text) else json.dumps(json.loads(text))) + "\n"


def line_of(value: JsonLike) -> str:
    """A value as JSON."""
    try:
        return STRICT.encode(value)
    except ValueError:  # a number that JSON lacks
        return STRICT.encode(finite(value))


# ---------------------------------------------------------------- parts


def part_form(form: str) -> str:
    """The form in which parts of a file of this form are kept until they are joined."""
    return "parquet" if form == "parquet" else "jsonl"


def part_of(form: str, rows: Sequence[Row]) -> bytes:
    """A part of a file to come."""
    if part_form(form) != "parquet":
        return "".join(map(line, rows)).encode()
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table_of(rows), file)
    return file.getvalue()


def rows_in(part: Path) -> int:
    """How many rows a part has; none if it is damaged."""
    if part.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(part).num_rows)
        except (pa.ArrowException, OSError):
            return 0
    with part.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(partial(file.read, CHUNK_BYTES), b""))


def join(parts: Sequence[Path], path: Path, form: str) -> None:
    """Writes all rows of the parts into one file, in order."""
    with replacing(path) as staging:
        if form == "parquet":
            join_parquet(parts, staging)
        elif form == "csv":
            join_csv(parts, staging)
        else:
            with staging.open("wb") as file:
                for part in parts:
                    with part.open("rb") as rows:
                        shutil.copyfileobj(rows, file)


def join_csv(parts: Sequence[Path], path: Path) -> None:
    """Rows as CSV under a header of all columns. What is no single value stands there as JSON."""
    names = dict.fromkeys(name for part in parts for row in kept_rows(part) for name in row)
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.DictWriter(file, [*names], lineterminator="\n")
        writer.writeheader()
        for part in parts:
            writer.writerows({name: cell(value) for name, value in row.items()} for row in kept_rows(part))


def kept_rows(part: Path) -> Iterator[dict[str, JsonLike]]:
    """The rows of a part of lines of JSON."""
    with part.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def cell(value: JsonLike) -> JsonLike:
    """A value as CSV holds it."""
    return line_of(value) if isinstance(value, Mapping | list) else value


# ---------------------------------------------------------------- Parquet


def table_of(rows: Sequence[Row]) -> "pa.Table":
    """The rows as a table of all their columns. A column of values of several kinds becomes one of strings."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table({name: column_of(values) for name, values in columns.items()})


def column_of(values: Sequence[JsonLike]) -> "pa.Array":
    """The values as one column."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return strings(values)


def strings(values: Sequence[JsonLike]) -> "pa.Array":
    """The values as strings, those that are none as JSON."""
    import pyarrow as pa

    shown = [each if isinstance(each, str | None) else line_of(each) for each in values]
    return pa.array([each and each.encode("utf-8", "replace").decode() for each in shown], pa.string())


def join_parquet(parts: Sequence[Path], path: Path) -> None:
    """Parts one after the other, a row group each, under one schema."""
    import pyarrow.parquet as pq

    schema = unified([pq.read_schema(part) for part in parts])
    with pq.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(fitted(pq.read_table(part), schema))


def unified(schemas: Sequence["pa.Schema"]) -> "pa.Schema":
    """The columns of all parts. One that has values of several kinds is of strings."""
    import pyarrow as pa

    fields = dict[str, "pa.Field"]()
    for field in (field for schema in schemas for field in schema):
        both = [pa.schema([fields.get(field.name, field)]), pa.schema([field])]
        try:
            fields[field.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema([*fields.values()])


def fitted(table: "pa.Table", schema: "pa.Schema") -> "pa.Table":
    """A part's table under the schema of all parts; columns that it lacks are null."""
    import pyarrow as pa

    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        column = table.column(field.name)
        texts = pa.types.is_string(field.type) and not pa.types.is_string(column.type)
        columns.append(strings(column.to_pylist()) if texts else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)
