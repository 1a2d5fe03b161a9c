"""Reads named columns of CSV, TSV, JSON and Parquet files as written: no type is guessed, other columns are skipped.

A value is what the file says: a string from CSV; a string, number, boolean, null, list or object from JSON; the Python
value of its type from Parquet. Text is UTF-8, with or without a byte order mark. Text files may be compressed.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.text_files import check_regular, in_utf8, opened, undecodable

if TYPE_CHECKING:
    import pyarrow as pa

END_OF_FILE = "\0end of file\0"  # a line of our own after the last, which an open quote swallows
SEPARATORS = {"csv": ",", "tsv": "\t"}  # of fields, by form
BLANK = re.compile(r"[ \t\r\n]*")
MOST_DEPTH = 100  # of lists and objects in each other


@dataclass
class Columns:
    """Columns of one file, or of several one after the other.

    `names` are those of all columns, as far as a missing one has to be explained. `values` holds the wanted columns
    that are there, `classes` the class names of a column of class indices.
    """

    names: tuple[str, ...] = ()
    values: dict[str, list[Any]] = field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max(map(len, self.values.values()), default=0)

    def add(self, other: "Columns") -> None:
        """Puts another file's rows after these. A column that one of them lacks is null there."""
        before, after = self.rows, other.rows
        for name in {**self.values, **other.values}:
            mine = self.values.setdefault(name, [None] * before)
            mine += other.values.get(name, [None] * after)
        self.names = tuple(dict.fromkeys(self.names + other.names))
        self.classes = other.classes | self.classes

    def slice(self, start: int, stop: int) -> "Columns":
        """The rows from `start` to before `stop`."""
        return Columns(self.names, {name: each[start:stop] for name, each in self.values.items()}, self.classes)


def read(path: Path, form: str, wanted: Sequence[str], separator: str | None = None) -> Columns:
    """The wanted columns of a file of the form `csv`, `tsv`, `json` (a list, or an object per line) or `parquet`.

    Raises:
        ValueError, OSError, EOFError: the file is not of this form; the message names the row, if there is one.
    """
    if form == "parquet":
        return read_parquet(path, wanted)
    with in_utf8(path), closing(opened(path)) as file:
        return read_json(file, wanted) if form == "json" else read_csv(file, wanted, separator or SEPARATORS[form])


# ---------------------------------------------------------------- CSV


def read_csv(file: Iterable[str], wanted: Sequence[str], separator: str = ",") -> Columns:
    """Strings of the wanted columns. A row that is cut short is filled up with empty strings; blank lines are skipped.

    Raises:
        ValueError: a row has more fields than the header, a quote is not closed, or a wanted column is there twice.
    """
    with long_fields():
        rows = csv_rows(file, separator)
        names = next(rows, [])
        columns = [(names.index(name), name) for name in wanted if name in names]
        check_once(names, wanted)
        found = Columns(tuple(names), {name: [] for _, name in columns})
        for number, row in enumerate(rows, start=1):
            if len(row) > len(names):
                raise ValueError(f"row {number} {too_many(row, names, separator)}")
            for place, name in columns:
                found.values[name].append(row[place] if place < len(row) else "")
        return found


def too_many(row: Sequence[str], header: Sequence[str], separator: str) -> str:
    """What is to be said of a row with more fields than the header."""
    what = {",": "a comma", "\t": "a tab"}.get(separator, repr(separator))
    return f"has {len(row)} fields, the header {len(header)}; quote texts that contain {what}"


def csv_rows(file: Iterable[str], separator: str) -> Iterator[list[str]]:
    """The header, and then each row that is not a blank line. Raises ValueError if a quote is open at the end."""
    number = 0
    for row in csv.reader(chain(file, [END_OF_FILE]), delimiter=separator):
        if row == [END_OF_FILE]:
            return
        if row and row[-1].endswith(END_OF_FILE):
            raise ValueError(f"row {number} opens a quote that is not closed")
        if len(row) > 1 or "".join(row).strip():
            number += 1
            yield row


def check_once(names: Sequence[str], wanted: Iterable[str]) -> None:
    """Raises ValueError if a wanted column is there twice."""
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise ValueError(f"there are two columns {twice[0]!r}; rename one of them")


@contextmanager
def long_fields() -> Iterator[None]:
    """Lets fields of CSV be of any length within the block."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


# ---------------------------------------------------------------- JSON


class Twice(dict[str, Any]):
    """An object that has a key more than once; the last value counts."""

    names: tuple[str, ...] = ()


def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, which remembers if a key is there twice."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = Twice(found)
    marked.names = tuple(name for name, _ in pairs)
    return marked


DECODER = json.JSONDecoder(object_pairs_hook=as_object)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises ValueError if a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"there are two keys {next(name for name in found if names.count(name) > 1)!r}")
    return found


STRICT = json.JSONDecoder(object_pairs_hook=once)


def read_json(file: io.TextIOBase, wanted: Sequence[str]) -> Columns:
    """The wanted columns of objects, one per line or all in one list, or of one object that holds whole columns.

    A key that an object lacks is null there.

    Raises:
        ValueError: what is read is not JSON, a row is no object, or has a wanted key twice. The message names the row.
    """
    seen: dict[str, None] = {}
    found: dict[str, list[Any]] = {}
    number, row = 0, None
    for number, row in enumerate(json_rows(file), start=1):
        if not isinstance(row, dict):
            raise ValueError(f'row {number} is no object, as {{"{wanted[0]}": …}} is')
        if isinstance(row, Twice):
            check_json_once(row, wanted, number)
        for name in wanted:
            if name in row and name not in found:
                found[name] = [None] * (number - 1)
            if name in found:
                found[name].append(row.get(name))
        if len(found) < len(wanted):
            seen.update(dict.fromkeys(row))
    if number == 1 and (whole := whole_columns(found)):
        found = whole
    return Columns(tuple(dict.fromkeys([*found, *seen])), found)


def check_json_once(row: Twice, wanted: Iterable[str], number: int) -> None:
    """As `check_once`, for the keys of a row."""
    if twice := [name for name in wanted if row.names.count(name) > 1]:
        raise ValueError(f"row {number} has two keys {twice[0]!r}; remove one of them")


def whole_columns(found: dict[str, list[Any]]) -> dict[str, list[Any]] | None:
    """The columns that the only row holds, as lists or as objects by row name; None if they are none."""
    cells = {name: cell.values() if isinstance(cell, dict) else cell for name, (cell,) in found.items()}
    columns = {name: list(cell) for name, cell in cells.items() if not isinstance(cell, str | int | float | None)}
    sizes = {len(column) for column in columns.values()}
    return columns if len(columns) == len(found) > 1 and len(sizes) == 1 else None


def json_rows(file: io.TextIOBase, decoder: json.JSONDecoder = DECODER) -> Iterator[Any]:
    """The values of a list, or of all lines that are not blank; one object may be spread over the whole file.

    Raises:
        ValueError: what is read is not JSON. The message names the row.
    """
    number = 0
    for line in file:
        if not number and line.lstrip().startswith("["):
            yield from json_list(line + file.read(), decoder)
            return
        if not line.strip():
            continue
        number += 1
        try:
            row = decoder.decode(line)
            if (brackets := line.count("[") + line.count("{")) > MOST_DEPTH:  # seldom, and asked of each line
                shallow(row, brackets)
        except RecursionError:
            raise ValueError(f"row {number} is nested too deeply") from None
        except ValueError as error:
            if number > 1 or line.strip()[0] != "{" or not (rest := file.read()).strip():
                raise ValueError(f"row {number}: {error}") from None
            yield as_one(line + rest, error, decoder)
            return
        yield row


def as_one(text: str, error: ValueError, decoder: json.JSONDecoder = DECODER) -> Any:
    """The one value of a file whose first line alone is none; `error` is why."""
    try:
        return shallow(decoder.decode(text), MOST_DEPTH + 1)
    except RecursionError:
        raise ValueError("row 1 is nested too deeply") from None
    except ValueError:
        raise ValueError(f"row 1: {error}") from None


def json_list(text: str, decoder: json.JSONDecoder = DECODER) -> Iterator[Any]:
    """The values of a list, decoded one by one."""
    place = skip_blank(text, skip_blank(text, 0) + 1)
    number = 0
    while text[place : place + 1] != "]" or number:
        number += 1
        try:
            value, after = decoder.raw_decode(text, place)
            shallow(value, text.count("[", place, after) + text.count("{", place, after))
        except RecursionError:
            raise ValueError(f"row {number} is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
        yield value
        place = skip_blank(text, after)
        if text[place : place + 1] == "]":
            break
        if text[place : place + 1] != ",":
            raise ValueError(f"row {number} is followed by neither a comma nor the end of the list")
        place = skip_blank(text, place + 1)
    if skip_blank(text, place + 1) < len(text):
        raise ValueError("something follows the list")


def decoded(text: str, decoder: json.JSONDecoder = DECODER) -> Any:
    """The value of a JSON text. Raises ValueError if it is none, or is nested too deeply."""
    try:
        return shallow(decoder.decode(text), text.count("[") + text.count("{"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shallow(value: Any, brackets: int) -> Any:
    """The value, in whose text at most so many lists and objects begin. Raises RecursionError if it is nested deeper
    than MOST_DEPTH, so that whoever walks it does not fail."""
    if brackets > MOST_DEPTH and deeper([value], MOST_DEPTH):
        raise RecursionError
    return value


def deeper(level: list[Any], most: int) -> bool:
    """Whether values hold lists and objects more than `most` deep in each other."""
    for _ in range(most):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        if not (level := [each for some in inner for each in some]):
            return False
    return any(isinstance(each, dict | list) for each in level)


def skip_blank(text: str, place: int) -> int:
    """The first place from `place` on that is not white space."""
    found = BLANK.match(text, place)
    return found.end() if found else place


# ---------------------------------------------------------------- Parquet


def read_parquet(path: Path, wanted: Sequence[str]) -> Columns:
    """The wanted columns, batch by batch.

    Raises:
        ValueError: it is no Parquet file, or a wanted column is there twice.
    """
    import pyarrow.parquet as pq

    check_regular(path)
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        check_once(schema.names, wanted)
        there = [name for name in wanted if name in schema.names]
        values: dict[str, list[Any]] = {name: [] for name in there}
        number = 0
        for batch in file.iter_batches(columns=there) if there else ():
            with in_rows(batch, number):
                for name in there:
                    values[name] += python_values(batch.column(name))
            number += batch.num_rows
    return Columns(tuple(schema.names), values, class_names(schema, there))


@contextmanager
def in_rows(batch: "pa.RecordBatch", before: int) -> Iterator[None]:
    """Says in which row of a batch, which so many rows stand before, a text is not UTF-8. Raises NotUtf8."""
    try:
        yield
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            with undecodable(f"row {before + number + 1}"):
                batch.slice(number, 1).to_pylist()
        raise


def python_values(column: "pa.Array") -> list[Any]:
    """Values as Python has them; a short float is the number with as few digits as tell it apart, as it is printed."""
    import pyarrow as pa

    values: list[Any] = column.to_pylist()
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        short = column.to_numpy(zero_copy_only=False)
        return [None if value is None else float(str(each)) for value, each in zip(values, short, strict=True)]
    return values


def class_names(schema: "pa.Schema", columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The class names of each column that `datasets` wrote as class indices."""
    from datasets import ClassLabel, Features

    if b"huggingface" not in (schema.metadata or {}):
        return {}
    features = {name: Features.from_arrow_schema(schema.empty_table().select([name]).schema)[name] for name in columns}
    return {name: tuple(each.names) for name, each in features.items() if isinstance(each, ClassLabel)}
