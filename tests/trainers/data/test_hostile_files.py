"""Files that are no data, not UTF-8, deep, or no files at all: one error with place and fix, and no lost process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from cluster.errors import DataError
from trainers.data.cleaning import DataConfig
from trainers.data.formats import MOST_DEPTH
from trainers.data.generative.config import AnyTask
from trainers.data.generative.preparing import prepare_task
from trainers.data.tasks import load_task

CLASSES = {"name": "t", "source": "files"}
ANSWERS = {**CLASSES, "format": "prompt_completion"}
ROWS = [{"text": f"t{i}", "label": "ab"[i % 2], "prompt": f"q{i}", "completion": f"a{i}"} for i in range(8)]
GOOD = "\n".join(map(json.dumps, ROWS)) + "\n"
OTHERS = "\n".join(json.dumps({**row, "text": f"u{i}", "prompt": f"v{i}"}) for i, row in enumerate(ROWS)) + "\n"
KINDS = (CLASSES, ANSWERS)


def read(kind: dict[str, Any], train: str | Path, test: str | Path | None = None) -> Any:
    """A task whose training rows are at a place."""
    task: Any = TypeAdapter(AnyTask).validate_python({**kind, "train": str(train), "test": str(test or train)})
    prepare: Callable[..., Any] = prepare_task if "format" in kind else load_task
    return prepare(task, DataConfig(), None, 0)


def refusal(kind: dict[str, Any], train: str | Path, test: str | Path | None = None) -> str:
    began = time.process_time()
    with pytest.raises(DataError) as caught:
        read(kind, train, test)
    assert time.process_time() - began < 5 and len(str(caught.value)) <= 2_000
    return str(caught.value)


def deep(levels: int) -> str:
    return json.dumps({**ROWS[0], "x": 0}).replace('"x": 0', f'"x": {"[" * levels}{"]" * levels}')


def lines(*rows: str | bytes) -> bytes:
    return b"\n".join(row if isinstance(row, bytes) else row.encode() for row in (GOOD.strip(), *rows)) + b"\n"


CP1252 = '{"text": "d\xe9j\xe0", "label": "a", "prompt": "d\xe9j\xe0", "completion": "a"}'.encode("cp1252")
FILES = {  # name of a file, its content, what is said
    "latin.jsonl": (lines(CP1252), r"line 9: byte 0xe9 is not UTF-8, and 'é' in Windows-1252\); save it as UTF-8"),
    "latin.json": (
        b"[" + GOOD.strip().replace("\n", ",\n").encode() + b",\n" + CP1252 + b"]",
        "line 9: byte 0xe9 is not UTF-8, and 'é' in Windows-1252); save it as UTF-8",
    ),
    "latin.csv": (
        "text,label,prompt,completion\na,b,c,d\nd\xe9j\xe0,a,b,c\n".encode("cp1252"), "line 3: byte 0xe9 is not UTF-8",
    ),
    "wide.jsonl": (GOOD.encode("utf-16"), "UTF-16"),
    "null.jsonl": (b"null\n" + GOOD.encode(), "row 1"),
    "null.json": (b"null", "row 1"),
    "nulls.json": (b"[null, null]", "row 1"),
    "deep.jsonl": (lines(deep(MOST_DEPTH + 1)), "row 9 is nested too deeply"),
    "deeper.jsonl": (lines(deep(900)), "row 9 is nested too deeply"),
    "deepest.jsonl": (lines(deep(100_000)), "row 9 is nested too deeply"),
    "deep.json": (b"[" + deep(200).encode() + b"]", "row 1 is nested too deeply"),
    "digits.jsonl": (lines('{"text": ' + "9" * 5_000 + "}"), "row 9"),
    "binary.jsonl": (bytes(range(256)) * 8, "cannot be read"),
    "cut.json.gz": (b"\x1f\x8b\x08\x00\x00\x00", "cannot be read"),
    "no.parquet": (b"PAR1" + b"\0" * 100 + b"PAR1", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=["classes", "answers"])
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_data(name: str, kind: dict[str, Any], tmp_path: Path) -> None:
    content, told = FILES[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(kind, tmp_path / name)
    assert told.replace("\\", "") in message and message.startswith("task t: train ")


@pytest.mark.parametrize("kind", KINDS, ids=["classes", "answers"])
def test_parquet_that_is_not_utf8(kind: dict[str, Any], tmp_path: Path) -> None:
    columns: dict[str, Any] = {name: pa.array([row[name] for row in ROWS]) for name in ROWS[0]}
    for name in ("text", "prompt"):
        texts = pa.array([row[name].encode() for row in ROWS[:5]] + [b"d\xe9j\xe0"] * 3, pa.binary())
        columns[name] = texts.view(pa.string())
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert "row 6: byte 0xe9 is not UTF-8, and 'é' in Windows-1252); save it as UTF-8" in refusal(
        kind, tmp_path / "a.parquet"
    )


@pytest.mark.parametrize("kind", KINDS, ids=["classes", "answers"])
def test_places_that_hold_no_file(kind: dict[str, Any], tmp_path: Path) -> None:
    good, pipe = tmp_path / "good.jsonl", tmp_path / "pipe.jsonl"
    good.write_text(GOOD)
    os.mkfifo(pipe)
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "self.jsonl").symlink_to("self.jsonl")
    (tmp_path / "empty.jsonl").touch()
    places = {
        pipe: "is no regular file, but a pipe or a device", tmp_path / "zero.jsonl": "is no regular file",
        tmp_path / "self.jsonl": "cannot be read (Too many levels of symbolic links)",
        tmp_path / "empty.jsonl": "is empty", f"/{'x' * 5_000}.jsonl": "cannot be read (File name too long)",
        "~nosuchuser/a.jsonl": "starts in a home folder that does not exist", "absent.jsonl": "does not exist in",
        tmp_path / "good.jsonl" / "a.jsonl": "does not exist",
    }  # fmt: skip
    for place, told in places.items():
        assert told in refusal(kind, place, good) and told in refusal(kind, good, place).replace("test ", "train ")


def test_a_number_of_many_digits_is_a_label(tmp_path: Path) -> None:
    labels = ["9" * 4_900, "1"]
    for name in ("a", "b"):
        rows = [f"{name}{i},{labels[i % 2]}\n" for i in range(8)]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(rows))
    assert len(read({**CLASSES, "labels": labels}, tmp_path / "a.csv", tmp_path / "b.csv").labels) == 2
    assert "is none of the labels" in refusal({**CLASSES, "labels": ["x", "y"]}, tmp_path / "a.csv")


# ---------------------------------------------------------------- through `datasets`

HUB = {
    "classes": {"name": "t", "source": "hub", "dataset": "set", "text_column": "text", "label_column": "label"},
    "answers": {"name": "t", "source": "hub", "dataset": "set", "format": "prompt_completion"},
}
ASK = """
import json, sys
from pydantic import TypeAdapter
from cluster.errors import DataError
from trainers.data.cleaning import DataConfig
from trainers.data.generative.config import AnyTask
from trainers.data.generative.preparing import prepare_task
from trainers.data.tasks import load_task
for given in json.load(sys.stdin):
    task = TypeAdapter(AnyTask).validate_python(given)
    try:
        (prepare_task if "format" in given else load_task)(task, DataConfig(), None, 0)
        print("read")
    except DataError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_data_set_whose_first_value_is_null_leaves_the_process_alive(tmp_path: Path) -> None:
    """In a process of its own: pyarrow's reader would end this one."""
    made = {"null": "null\n" + GOOD, "list": "[null]", "good": GOOD, "odd": '{"prompt": 1}\n[]\n'}
    for name, content in made.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(content)
        (tmp_path / name / "test.jsonl").write_text(OTHERS)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/train.jsonl")
    names = ["null", "list", "good", "odd", "pipe"]
    asked = [{**kind, "dataset": str(tmp_path / name)} for name in names for kind in HUB.values()]
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(asked), capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    said = done.stdout.splitlines()
    assert [line == "read" for line in said] == [False] * 4 + [True] * 2 + [False] * 4
    assert all("row 1" in line for line in said[:4]) and all("no regular file" in line for line in said[8:])


def test_slices_of_json_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name, rows in (("train", ROWS[:5]), ("test", ROWS[5:])):
        (tmp_path / f"set/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        **HUB["answers"],
        "dataset": str(tmp_path / "set"),
        "train_split": "train[1:4]+test[:1]",
        "test_split": "test[2:]",
    }
    found = prepare_task(TypeAdapter(AnyTask).validate_python(given), DataConfig(), None, 0)
    rows = [json.loads(row) for key in ("train", "validation", "test") for row in getattr(found, key)["row"]]
    assert sorted(row["prompt"] for row in rows) == ["q1", "q2", "q3", "q5", "q7"]
    with pytest.raises(DataError, match="split"):
        prepare_task(TypeAdapter(AnyTask).validate_python({**given, "test_split": "nope"}), DataConfig(), None, 0)
