"""A checkpoint of a log as one Parquet file: what 100,000 entries take to list, search and read again.

It says nothing that the log does not, and can be removed at any time. It counts only where an `index` entry of the log
names its digest. Columns: `seq`, `sha256`, `time`, `actor`, `op`, `entry` (the bytes of the entry); the keys of BRIEF
out of the entry's body; the keys of LISTS out of the bodies whose operation has that list. The same key means other
things in other operations (`versions` of a `start` are those of packages), and a body is whatever its writer wrote:
what its column cannot hold is null there, and stands in `entry` alone.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.log.entry import LISTS as LISTS_OF
from orchestrator.log.entry import SIGNATURE, Entry, canonical, digest, parse_entry

COMMIT = {
    "version": "int32", "task": "string", "active_parameters": "int64", "stored_bytes": "int64", "overlap": "float64",
    "prefix": "string",
}  # fmt: skip
BRIEF = {**COMMIT, "alias": "string", "expect": "int32", "why": "string"}
HEADER = {"seq": "int32", "sha256": "string", "time": "string", "actor": "string", "op": "string"}
LISTS = {"prefixes": "string", "versions": "int32"}
BITS = {"int32": 32, "int64": 64}
ROWS_A_GROUP = 10_000


def encode(entries: Sequence[Entry]) -> bytes:
    """Entries 1 to n as a Parquet file. The bodies may hold any JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        name: pa.array([fitting(getattr(e, name), kind) for e in entries], kind) for name, kind in HEADER.items()
    }
    for name, kind in BRIEF.items():
        columns[name] = pa.array([fitting(e.body.get(name), kind) for e in entries], kind)
    for name, kind in LISTS.items():
        columns[name] = pa.array([_list(e, name) for e in entries], pa.list_(getattr(pa, kind)()))
    columns["entry"] = pa.array([raw(e) for e in entries], pa.binary())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", row_group_size=ROWS_A_GROUP)
    return sink.getvalue()


def fitting(value: Any, kind: str) -> Any:
    """The JSON value as a column of this kind holds it; None if it is of another type or out of range.

    A number is a float64 be it whole or not; a whole float, as 1e6, is an int64. A lone surrogate, which UTF-8 does not
    have, becomes its escape.
    """
    if kind == "string":
        return value.encode("utf-8", "backslashreplace").decode() if type(value) is str else None
    if kind == "float64":
        return _float(value) if type(value) in (int, float) else None
    if kind == "int64" and type(value) is float and value.is_integer():
        value = int(value)
    limit = 1 << (BITS[kind] - 1)
    return value if type(value) is int and -limit <= value < limit else None


def _float(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _list(entry: Entry, name: str) -> list[Any] | None:
    """What fits of the list; None if entries of this operation have no such list."""
    if name not in LISTS_OF.get(entry.op, {}):
        return None
    return [each for value in entry.body[name] if (each := fitting(value, LISTS[name])) is not None]


@dataclass(frozen=True)
class Indexed:
    """What an index holds: entries, in order, and the digests of all, where `brief` made it without the commits; those
    are in `commits`, rows of (seq, time, *COMMIT)."""

    digests: Sequence[str] = ()
    entries: Sequence[Entry] = ()
    commits: Sequence[tuple[Any, ...]] = ()


def decode(data: bytes) -> Indexed:
    """All that a file holds that `encode` made. Raises ValueError where its entries are no chain that begins at 1."""
    found = list[Entry]()
    for each in read(data, ["entry"])["entry"].to_pylist():
        entry = parse_entry(each, known_canonical=True)
        if (entry.seq, entry.prev_sha256) != (len(found) + 1, found[-1].sha256 if found else ""):
            raise ValueError(f"entry {entry.seq} does not follow")
        found.append(entry)
    return Indexed([entry.sha256 for entry in found], found)


def brief(data: bytes) -> Indexed:
    """What a list of versions takes: commits as rows, other entries with only the keys of BRIEF and LISTS of each body.

    100,000 entries take a fifth of the time of `decode`.
    """
    import pyarrow.compute as pc

    table = read(data, [*HEADER, *BRIEF, *LISTS])
    is_commit = pc.equal(table["op"], "commit")
    commits = table.filter(is_commit).select(["seq", "time", *COMMIT])
    others = table.filter(pc.invert(is_commit)).to_pylist()
    return Indexed(
        table["sha256"].to_pylist(),
        [_brief_entry(row) for row in others],
        list(zip(*(column.to_pylist() for column in commits.columns), strict=True)),
    )


def _brief_entry(row: dict[str, Any]) -> Entry:
    body = {name: value for name in (*BRIEF, *LISTS) if (value := row[name]) is not None}
    return Entry(row["seq"], "", "", row["actor"], row["time"], row["op"], body, row["sha256"])


def read(data: bytes, names: list[str]) -> Any:
    """Columns of a Parquet file, as a table. Raises ValueError where it has not all of them or is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data), columns=names)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"no index: {type(error).__name__}") from None
    if table.column_names != names:
        raise ValueError("no index: columns are missing")
    return table


def raw(entry: Entry) -> bytes:
    """The bytes of an entry, as they stand in the log."""
    content = {name: getattr(entry, name) for name in ("seq", "prev_sha256", "nonce", "actor", "time", "op")}
    signed = {SIGNATURE: dict(entry.signature)} if entry.signature is not None else {}
    data = canonical({**entry.body, **content, **signed})
    if digest(data) != entry.sha256:
        data = canonical({**entry.body, **content, SIGNATURE: None})  # it reads as none
    assert digest(data) == entry.sha256
    return data
