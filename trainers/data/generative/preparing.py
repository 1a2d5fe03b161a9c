"""From a generative task's configuration to clean, disjoint train, validation and test rows.

What is done to the rows, in this order:

1. Each row is brought into its plain form (`rows`); one that does not fit the format is an error. An instance of
   Super-NaturalInstructions without an output is left out.
2. Training and given validation rows that ask what a test row asks are removed, even if it is there beyond
   `max_test_rows`. The test rows stay as they are. Without test rows, a `test_share` of the distinct training rows is
   taken for them, all rows that ask the same together.
3. Of equal rows the first is kept. Rows that ask the same and are answered otherwise all stay.
4. If the task gives validation rows, training rows that ask the same are removed. Otherwise validation rows are taken
   from the training rows, all rows that ask the same together. The split depends on rows and seed, not on file order.
5. `max_train_rows` keeps a sample drawn by the seed, in file order; `max_test_rows` keeps the first rows of the file.

What steps 1 to 4 remove is counted in `TaskData.warnings`. Splits of many bytes are kept on this machine (`cache`), so
that they are prepared once.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import DataError
from cluster.temporary import temporary
from trainers.data.cleaning import DataConfig, count, limited, share_note
from trainers.data.generative.cache import cached
from trainers.data.generative.config import (
    AnyGenerative,
    DocstringAnswersTask,
    FormatTask,
    GenerativeFilesTask,
    GenerativeHubTask,
    GenerativeImportedTask,
    SuperniTask,
    TraceTask,
)
from trainers.data.generative.layouts import docstring_sources, superni_sources, trace_sources
from trainers.data.generative.reading import Source, file_sources, hub_sources
from trainers.data.generative.rows import RowFault, Values, canonical, question, written
from trainers.data.sources import NO_ROWS, TEST_SHARE
from trainers.data.tasks import SPLITS, TaskData

if TYPE_CHECKING:
    from datasets import Dataset

CACHED_BYTES = 32 << 20  # of sources; smaller ones are read anew each time and leave nothing on this machine
ROWS_AT_ONCE = 5_000
FORM = 1  # of what the cache holds; another number makes older entries unused
RENDERING = {  # keys that do not change the rows
    "metrics", "train_on", "chat_template", "system", "max_length", "max_cut", "too_long", "instruction",
    "resources", "decoding", "training",
}  # fmt: skip


def prepare_task(task: AnyGenerative, data: DataConfig, data_dir: Path | None, seed: int) -> TaskData:
    """Reads, cleans, splits and limits one task, as the head of this module says.

    The splits have the columns `row` (a row in its plain form, as JSON), `number` (in its file, from 1) and `where`
    (its file). There are no labels.

    Raises:
        DataError: a file or column is absent, a row does not fit the format, or a split is empty. The message names the
            task, the row, what was found and the fix.
    """
    with temporary("data") as scratch:
        sources = read_sources(task, data_dir, seed, Path(scratch))
        if sum(source.size for source in sources.values()) < CACHED_BYTES:
            folder = Path(scratch) / "made"
            folder.mkdir()
            make(task, data, seed, sources, folder)
            return made(task, folder, in_memory=True)
        kept = cached(key_of(task, data, seed, sources), lambda staging: make(task, data, seed, sources, staging))
        return made(task, kept, in_memory=False)


def read_sources(task: AnyGenerative, data_dir: Path | None, seed: int, scratch: Path) -> dict[str, Source]:
    """The splits that a task gives."""
    match task:
        case DocstringAnswersTask():
            return docstring_sources(task, seed)
        case GenerativeFilesTask():
            return file_sources(task, scratch)
        case GenerativeHubTask():
            return hub_sources(task, scratch)
        case GenerativeImportedTask():
            raise DataError(f"task {task.name}: {NO_ROWS}")
        case SuperniTask():
            return superni_sources(task, data_dir, seed)
        case TraceTask():
            return trace_sources(task, data_dir)


def key_of(task: AnyGenerative, data: DataConfig, seed: int, sources: dict[str, Source]) -> str:
    """sha256, hexadecimal, of all that the prepared rows depend on."""
    told = [FORM, task.model_dump(mode="json", exclude=RENDERING), data.model_dump(mode="json"), seed]
    told += [[key, source.where, source.digest] for key, source in sorted(sources.items())]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- one split as read


@dataclass(frozen=True, eq=False)
class Scanned:
    """A split in its plain form: where its rows are, and 16-byte digests per row of what is asked and of all."""

    where: str
    path: Path
    asked: list[bytes]
    whole: list[bytes]


def digest(text: str) -> bytes:
    """16 bytes that tell texts apart."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def scan(task: AnyGenerative, source: Source, path: Path, notes: list[str]) -> Scanned:
    """Writes the rows of a split, in their plain form, to an Arrow file."""
    asked: list[bytes] = []
    whole: list[bytes] = []

    def rows() -> Iterator[tuple[str, int, str]]:
        for where, number, raw in source.rows():
            if isinstance(task, SuperniTask) and not raw["completion"].strip():
                continue
            values = plain_row(task, where, number, raw)
            text = written(values)
            asked.append(digest(question(values)))
            whole.append(digest(text))
            yield text, number, where

    write_table(path, rows())
    if isinstance(task, SuperniTask):
        count(
            notes, sum(1 for _ in source.rows()) - len(whole), f"row(s) without an output dropped from {source.where}"
        )
    return Scanned(source.where, path, asked, whole)


def plain_row(task: AnyGenerative, where: str, number: int, raw: Any) -> Values:
    """A row in its plain form. Raises DataError if it does not fit the format."""
    columns = task.columns if isinstance(task, FormatTask) else {}
    try:
        return canonical(task.form, columns, raw)
    except RowFault as fault:
        raise DataError(f"task {task.name}: {where} row {number}: {fault.found}; {fault.fix}") from None


def write_table(path: Path, rows: Iterable[tuple[str, int, str]]) -> None:
    """Rows of (row, number, where) as an Arrow stream."""
    import pyarrow as pa

    schema = pa.schema([("row", pa.large_string()), ("number", pa.int64()), ("where", pa.string())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batched(rows, ROWS_AT_ONCE):
            writer.write_batch(
                pa.record_batch(
                    [pa.array(each, field.type) for each, field in zip(zip(*batch, strict=True), schema, strict=True)],
                    schema=schema,
                )
            )


def batched(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last one may be shorter."""
    held: list[Any] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def read_table(path: Path, *, in_memory: bool = False) -> Any:
    """An Arrow stream's table, mapped from the file unless `in_memory`."""
    import pyarrow as pa

    with pa.OSFile(str(path)) if in_memory else pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


# ---------------------------------------------------------------- which rows go where


def make(task: AnyGenerative, data: DataConfig, seed: int, sources: dict[str, Source], folder: Path) -> None:
    """Fills a folder with the splits of a task and what is told of them."""
    notes: list[str] = []
    with temporary("data", below=folder.parent) as scratch:
        read = {key: scan(task, source, Path(scratch) / key, notes) for key, source in sources.items()}
        chosen = choose(task, data, seed, read, notes)
        total = hashlib.sha256(json.dumps(task.form).encode())
        sizes = {}
        for key in SPLITS:
            origin = read.get(key) or read["train"]
            if not len(chosen[key]):
                raise DataError(
                    f"task {task.name}: no {key} rows are left of the {len(origin.whole)} in {origin.where}; "
                    "add rows that ask what no row of the test set asks"
                )
            sizes[key] = len(chosen[key])
            total.update(f"\n{sizes[key]} rows".encode())
            write_table(folder / f"{key}.arrow", picked(read_table(origin.path), chosen[key], total.update))
    told = {
        "warnings": [f"task {task.name}: {note}" for note in notes],
        "fingerprint": total.hexdigest(),
        "rows": sizes,
    }
    (folder / "told.json").write_text(json.dumps(told), "utf-8")


def picked(table: Any, places: np.ndarray, digested: Callable[[bytes], None]) -> Iterator[tuple[str, int, str]]:
    """The rows at these places, each told to `digested` as well."""
    for start in range(0, len(places), ROWS_AT_ONCE):
        part = table.take(places[start : start + ROWS_AT_ONCE])
        rows = zip(part["row"].to_pylist(), part["number"].to_pylist(), part["where"].to_pylist(), strict=True)
        for row, number, where in rows:
            digested(b"\n" + row.encode())
            yield row, number, where


def choose(
    task: AnyGenerative, data: DataConfig, seed: int, read: dict[str, Scanned], notes: list[str]
) -> dict[str, np.ndarray]:
    """The rows of each split by their places in what was read (steps 2 to 5 above)."""
    train, test = read["train"], read.get("test") or read["train"]
    kept, tests = trained_and_tested(task, seed, read, notes)
    tested = {test.asked[i] for i in tests}
    given = read.get("validation")
    if given:
        places = range(len(given.whole))
        held = distinct(
            given,
            without(given, places, tested, "validation row(s) removed: a test row asks the same", notes),
            "validation",
            notes,
        )
        kept = without(
            train,
            kept,
            {given.asked[i] for i in held},
            "training row(s) removed: a validation row asks the same",
            notes,
        )
        held = sampled(given, held, data.max_validation_rows, seed, "validation")
    else:
        size = limited(max(1, round(data.validation_fraction * len(kept))), data.max_validation_rows)
        held = carved(train, kept, size, seed, "validation")
        out = {*held}
        kept = [i for i in kept if i not in out]
    kept = sampled(train, kept, task.max_train_rows or data.max_train_rows, seed, "train")
    first = tests[: limited(len(tests), task.max_test_rows or data.max_test_rows)]
    return {"train": np.array(kept, int), "validation": np.array(held, int), "test": np.array(first, int)}


def trained_and_tested(
    task: AnyGenerative, seed: int, read: dict[str, Scanned], notes: list[str]
) -> tuple[list[int], Sequence[int]]:
    """The places of distinct training rows that ask what no test row asks, and those of the test rows, which are a
    share of the training rows if there are no others."""
    train, test = read["train"], read.get("test")
    places: Sequence[int] = range(len(train.whole))
    if test:
        apart = without(train, places, {*test.asked}, "training row(s) removed: a test row asks the same", notes)
        return distinct(train, apart, "training", notes), range(len(test.whole))
    kept = distinct(train, places, "training", notes)
    share = task.test_share if isinstance(task, GenerativeFilesTask | GenerativeHubTask) else None
    held = carved(train, kept, max(1, round((share or TEST_SHARE) * len(kept))), seed, "test share")
    notes.append(share_note(len(held), len(kept)))
    out = {*held}
    return [i for i in kept if i not in out], held


def without(split: Scanned, places: Iterable[int], asked: set[bytes], what: str, notes: list[str]) -> list[int]:
    """The places of rows that ask none of `asked`."""
    before = [*places]
    kept = [i for i in before if split.asked[i] not in asked]
    count(notes, len(before) - len(kept), what)
    return kept


def distinct(split: Scanned, places: Sequence[int], name: str, notes: list[str]) -> list[int]:
    """The place of the first of equal rows."""
    first = {split.whole[i]: i for i in reversed(places)}
    count(notes, len(places) - len(first), f"{name} row(s) removed: an earlier one is the same")
    return sorted(first.values())


def rank(seed: int, purpose: str, key: bytes) -> bytes:
    """A pseudo-random rank of `key`, independent for each purpose."""
    return hashlib.blake2b(key, digest_size=16, key=f"{seed} {purpose}".encode()).digest()


def sampled(split: Scanned, places: Sequence[int], limit: int | None, seed: int, purpose: str) -> list[int]:
    """At most `limit` of the places, drawn by the seed, in file order. A larger limit only adds rows."""
    if limit is None or len(places) <= limit:
        return [*places]
    return sorted(sorted(places, key=lambda i: rank(seed, purpose, split.whole[i]))[:limit])


def carved(split: Scanned, places: Sequence[int], size: int, seed: int, purpose: str) -> list[int]:
    """About `size` of the places, drawn by the seed; rows that ask the same go together, unless all rows do."""
    groups: dict[bytes, list[int]] = {}
    alone = len({split.asked[i] for i in places}) < 2
    for i in places:
        groups.setdefault(split.whole[i] if alone else split.asked[i], []).append(i)
    chosen: list[int] = []
    for key in sorted(groups, key=lambda key: rank(seed, purpose, key)):
        if len(chosen) >= size:
            break
        if len(chosen) + len(groups[key]) <= max(size, 1):
            chosen += groups[key]
    if not chosen and len(groups) > 1:
        chosen = min(groups.values(), key=len)
    return sorted(chosen)


# ---------------------------------------------------------------- result


def made(task: AnyGenerative, folder: Path, *, in_memory: bool) -> TaskData:
    """The task whose splits a folder holds."""
    told = json.loads((folder / "told.json").read_text("utf-8"))
    splits = {key: as_dataset(folder / f"{key}.arrow", in_memory) for key in SPLITS}
    return TaskData(
        name=task.name, labels=(), **splits, warnings=tuple(told["warnings"]), fingerprint=told["fingerprint"]
    )


def as_dataset(path: Path, in_memory: bool) -> "Dataset":
    """The table of a file as a `datasets.Dataset`."""
    from datasets import Dataset

    return Dataset(read_table(path, in_memory=True)) if in_memory else Dataset.from_file(str(path))
