"""Generated answers that a run keeps: `answers.parquet` beside an adapter, with one row per answer.

    task, row         the task's name, and the row's number in its test split
    learned           tasks that the stream had learned when the answer was given; 0: the untrained model
    prompt            what the model was asked, with the marks that a chat template writes around turns
    references        the right answers
    answer            what the model generated
    cut               tokens after which it was cut, if no more were allowed; null if it ended, and in old files
    metric/<name>     each metric of the answer; null if the task has no such metric

It holds rows of the data. It stays in the store: nothing that is pulled, exported or served has it.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ANSWERS = "answers.parquet"
METRIC = "metric/"


@dataclass(frozen=True)
class Asked:
    """A row in words: what is asked, and the right answers."""

    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KeptAnswer(Asked):
    """An answer to a row; see the head of this module."""

    task: str
    row: int
    learned: int
    answer: str
    metrics: Mapping[str, float]
    cut: int | None = None


def write_answers(path: Path, answers: Sequence[KeptAnswer]) -> None:
    """Writes the file. Half surrogate pairs, which are no text, become question marks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for each in answers for name in each.metrics))
    columns = {
        "task": pa.array([each.task for each in answers], pa.string()),
        "row": pa.array([each.row for each in answers], pa.int32()),
        "learned": pa.array([each.learned for each in answers], pa.int32()),
        "prompt": pa.array([plain(each.prompt) for each in answers], pa.string()),
        "references": pa.array([[*map(plain, each.references)] for each in answers], pa.list_(pa.string())),
        "answer": pa.array([plain(each.answer) for each in answers], pa.string()),
        "cut": pa.array([each.cut for each in answers], pa.int32()),
        **{f"{METRIC}{name}": pa.array([each.metrics.get(name) for each in answers], pa.float64()) for name in names},
    }
    pq.write_table(pa.table(columns), path)


def read_answers(data: bytes) -> list[KeptAnswer]:
    """The answers in the bytes of such a file."""
    import pyarrow.parquet as pq

    return [
        KeptAnswer(
            **{key: value for key, value in row.items() if not key.startswith(METRIC) and key != "references"},
            references=tuple(row["references"]),
            metrics={
                key.removeprefix(METRIC): value
                for key, value in row.items()
                if key.startswith(METRIC) and value is not None
            },
        )
        for row in pq.read_table(io.BytesIO(data)).to_pylist()
    ]


def plain(text: str) -> str:
    """The text as UTF-8 can hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")
