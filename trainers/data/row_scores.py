"""Row scores that a run keeps: `rows.parquet` beside an adapter, with one line per split that was scored.

    task, split       the task's name; validation or test
    learned           tasks that the stream had learned when it was scored; 0: the untrained model
    rows              numbers of the scored rows in their split, from 0, ascending; null if they are 0, 1, 2, …
    right             whether each row was answered rightly, a bit a row; null if there are scores between 0 and 1
    value             each row's own score, float32, if there are some; else null
    union             as `right`, among the labels of all tasks learned (`evaluate.labels: both`); null if not scored so

It holds no text. It stays in the store, as kept answers do.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ROWS = "rows.parquet"


@dataclass(frozen=True, eq=False, kw_only=True)
class RowScores:
    """The scores of n rows of a task's split after `learned` tasks: `rows` has their numbers, (n,) ascending, `values`
    their own scores, (n,) from 0 to 1. A task that is judged by its loss has exp(−nll per token) of each row. `union`
    has the scores among the labels of all tasks learned, (n,); None if there are none."""

    task: str
    split: str
    learned: int
    rows: "np.ndarray"
    values: "np.ndarray"
    union: "np.ndarray | None" = None


def write_row_scores(path: Path, scores: Sequence[RowScores]) -> None:
    """Writes the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "task": pa.array([each.task for each in scores], pa.string()),
        "split": pa.array([each.split for each in scores], pa.string()),
        "learned": pa.array([each.learned for each in scores], pa.int32()),
        "rows": pa.array([numbers_of(each.rows) for each in scores], pa.list_(pa.int32())),
        "right": pa.array([bits_of(each.values) for each in scores], pa.list_(pa.bool_())),
        "value": pa.array([shares_of(each.values) for each in scores], pa.list_(pa.float32())),
        "union": pa.array(
            [None if each.union is None else bits_of(each.union) for each in scores], pa.list_(pa.bool_())
        ),
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_row_scores(data: bytes) -> list[RowScores]:
    """The scores in the bytes of such a file."""
    import pyarrow.parquet as pq

    return [scores_of(line) for line in pq.read_table(io.BytesIO(data)).to_pylist()]


def scores_of(line: dict[str, Any]) -> RowScores:
    """A line of the file."""
    import numpy as np

    values = np.array(line["value"] if line["right"] is None else line["right"], np.float64)
    rows = np.arange(len(values)) if line["rows"] is None else np.array(line["rows"])
    union = None if line["union"] is None else np.array(line["union"], np.float64)
    told = {key: line[key] for key in ("task", "split", "learned")}
    return RowScores(rows=rows, values=values, union=union, **told)


def numbers_of(rows: "np.ndarray") -> list[int] | None:
    """The rows' numbers; None if they are 0, 1, 2, …"""
    return None if int(rows[-1]) == len(rows) - 1 else rows.tolist()


def bits_of(values: "np.ndarray") -> list[bool] | None:
    """Whether each value is 1; None if one is neither 0 nor 1."""
    return (values == 1).tolist() if are_bits(values) else None


def shares_of(values: "np.ndarray") -> list[float] | None:
    """The values, if one is neither 0 nor 1."""
    return None if are_bits(values) else values.tolist()


def are_bits(values: "np.ndarray") -> bool:
    """Whether each value is 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def rows_digest(rows: Iterable[Sequence[str]]) -> str:
    """The sha256 of rows in their order, each the texts that it is asked by and judged by. Rows are cut apart by
    lengths, so that other rows have another digest."""
    found = hashlib.sha256()
    for row in rows:
        found.update(len(row).to_bytes(8, "big"))
        for text in row:
            data = text.encode("utf-8", "surrogatepass")
            found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()
