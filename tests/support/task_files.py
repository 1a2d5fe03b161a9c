"""Tasks of a few rows, written to files and read."""

import json
from pathlib import Path

from pydantic import TypeAdapter

from trainers.data.tasks import DataConfig, TaskConfig, TaskData, load_task

NO_LIMITS = DataConfig(max_validation_rows=None)
PARSE = TypeAdapter(TaskConfig).validate_python


def rows_of(split) -> list[tuple[str, int]]:
    return list(zip(split["text"], split["label"], strict=True))


def texts(*splits) -> set[str]:
    return {text for split in splits for text in split["text"]}


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def many(count: int, prefix: str, labels: str = "ab") -> list[tuple[str, str]]:
    return [(f"{prefix} {i}", labels[i % len(labels)]) for i in range(count)]


def load_rows(folder: Path, train, test, validation=None, *, data=NO_LIMITS, seed=0, **task) -> TaskData:
    """A `files` task of JSON lines with these (text, label) rows."""
    task |= {"train": write_jsonl(folder / "train.jsonl", train), "test": write_jsonl(folder / "test.jsonl", test)}
    if validation is not None:
        task["validation"] = write_jsonl(folder / "validation.jsonl", validation)
    return load_task(PARSE({"name": "t", "source": "files", **task}), data, None, seed)
