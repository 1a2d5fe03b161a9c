"""Tasks as a whole: labels, what leaves nothing to train on, fingerprints, and another process."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import DataError
from tests.support.task_files import PARSE, load_rows, many, rows_of, texts
from trainers.data.tasks import DataConfig

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("train", "test", "complaint"),
    [
        ([("a", "x"), ("b", "y")], [("a", "x"), ("b", "y")], "no train rows are left of the 2"),
        ([("a", "x"), ("b", "y")], [("a", "x")], "no train rows are left"),  # one row cannot be train and validation
        ([("", "x"), (" ", "y")], [("a", "x")], r"the labels of train .* are \[\]"),
        ([("a", "x"), ("b", "y")], [("", "x")], "no test rows are left of the 1"),
        ([("a", "x"), ("b", "x"), ("c", "x")], [("d", "x")], r"are \['x'\]; at least two"),
        ([("a", "x"), ("b", None)], [("d", "x")], r"at least two"),
        ([("a", "x"), ("b", "y"), ("c", None)], [("d", "x")], r"train\.jsonl' row 3: label None is none of"),
        ([("a", "x"), ("b", "y")], [("c", "z")], r"test\.jsonl' row 1: label 'z' is none of the labels \['x', 'y'\]"),
        ([("a", "x"), (5, "y")], [("c", "x")], r"train\.jsonl' row 2: text 5 is not a string"),
    ],
)
def test_what_leaves_nothing_to_train_on_is_an_error(tmp_path, train, test, complaint):
    with pytest.raises(DataError, match=complaint):
        load_rows(tmp_path, train, test)


def test_fingerprint_is_the_documented_hash_of_labels_and_rows(tmp_path):
    loaded = load_rows(tmp_path, many(5, "é"), [("t", "a")])
    lines = [json.dumps(list(loaded.labels))]
    for split in (loaded.train, loaded.validation, loaded.test):
        lines += [f"{len(split)} rows", *(json.dumps(list(row)) for row in rows_of(split))]
    assert loaded.fingerprint == hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()
    renamed = load_rows(tmp_path, [(t, f"{label}!") for t, label in many(5, "é")], [("t", "a!")])
    assert renamed.fingerprint != loaded.fingerprint


def test_labels_in_the_configuration_give_the_order_and_take_indices(tmp_path):
    train = many(10, "x")
    assert load_rows(tmp_path, train, [("t", "a")], labels=["b", "a"]).labels == ("b", "a")
    numbers = [(text, "ab".index(label)) for text, label in train]
    loaded = load_rows(tmp_path, numbers, [("t", 1)], labels=["bad", "good"])
    assert rows_of(loaded.test) == [("t", 1)]
    with pytest.raises(DataError, match="row 1: label 2 is none of the labels"):
        load_rows(tmp_path, numbers, [("t", 2)], labels=["bad", "good"])
    stars = [(text, number + 1) for text, number in numbers]
    assert rows_of(load_rows(tmp_path, stars, [("t", 1)], labels=["1", "2"]).test) == [("t", 0)]
    with pytest.raises(
        DataError, match="label '1' is none of the labels"
    ):  # no indices into labels that were not given
        load_rows(tmp_path, train, [("t", "1")])


SCRIPT = """
import json, pathlib, sys
from trainers.data.tasks import DataConfig, FilesTask, HubTask, load_task
heavy = [name for name in ("datasets", "torch", "pandas", "pyarrow", "numpy") if name in sys.modules]
folder = pathlib.Path(sys.argv[1])
task = FilesTask(name="t", source="files", train=folder / "train.jsonl", test=folder / "test.jsonl")
loaded = load_task(task, DataConfig(max_train_rows=50), None, 3)
try:
    load_task(HubTask(name="h", source="hub", dataset="nobody/nothing"), DataConfig(), None, 0)
except Exception as error:
    print(json.dumps([heavy, loaded.fingerprint, loaded.warnings, type(error).__name__, str(error)]))
"""


def test_another_process_agrees_and_an_unreachable_hub_is_one_quiet_error(tmp_path):
    (tmp_path / "home").mkdir()
    here = load_rows(tmp_path, many(100, "x", "abc"), [("x 1", "a")], data=DataConfig(max_train_rows=50), seed=3)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "7",
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    heavy, fingerprint, warnings, error, message = json.loads(done.stdout)
    assert heavy == []  # the command line starts without them
    assert (fingerprint, tuple(warnings)) == (here.fingerprint, here.warnings)
    assert error == "DataError"
    assert message.startswith("task h: train_split 'train' of dataset 'nobody/nothing' cannot be read (Couldn't reach")
    assert "network access" in message
    assert done.stderr == ""
    assert not [path for path in (tmp_path / "home").rglob("*") if path.suffix in {".arrow", ".json", ".parquet"}]


# --- classes


def test_classes_take_the_rows_of_these_labels_alone(tmp_path):
    train, test = many(40, "x", "abcd"), many(8, "t", "abcd")
    some = load_rows(tmp_path, train, test, classes=["d", "a"])
    assert some.labels == ("d", "a") and some.warnings == ()
    assert texts(some.train, some.validation) == {text for text, label in train if label in "da"}
    assert rows_of(some.test) == [("t 0", 1), ("t 3", 0), ("t 4", 1), ("t 7", 0)]
    of_both = [[row for row in rows if row[1] in "da"] for rows in (train, test)]
    for limits in ({}, {"max_test_rows": 3, "max_train_rows": 5}):
        alone = load_rows(tmp_path, *of_both, labels=["d", "a"], **limits)
        assert load_rows(tmp_path, train, test, classes=["d", "a"], **limits).fingerprint == alone.fingerprint
    assert len(alone.train) == 5 and len(alone.test) == 3, "limits count the rows that are left"
    assert (
        load_rows(tmp_path, train, test, classes=[*"abcd"]).fingerprint == load_rows(tmp_path, train, test).fingerprint
    )


def test_classes_of_labels_given_as_indices_and_of_a_validation_file(tmp_path):
    rows, named = [(f"x {i}", i % 3) for i in range(12)], {"labels": ["bad", "good", "ok"], "classes": ["ok", "bad"]}
    loaded = load_rows(tmp_path, rows, [("t", 2), ("u", 1), ("v", 0)], [("w", 0), ("y", 1)], **named)
    assert rows_of(loaded.test) == [("t", 0), ("v", 1)] and rows_of(loaded.validation) == [("w", 1)]
    with pytest.raises(DataError, match="row 1: label 3 is none of the labels"):  # other labels are still checked
        load_rows(tmp_path, rows, [("t", 3)], **named)


@pytest.mark.parametrize(
    ("classes", "error", "complaint"),
    [
        (
            ["sport", "World"],
            DataError,
            r"task t: classes: 'sport' is none of the labels \['Sports', 'World'\]; .*'Sports'",
        ),
        (["World"], ValidationError, "classes\n.*name at least two"),
        (["World", " World"], ValidationError, "classes\n.*each once"),
        (["World", ""], ValidationError, "classes\n.*at least two"),
    ],
)
def test_classes_that_a_task_cannot_have(tmp_path, classes, error, complaint):
    train = [(f"x {i}", ("World", "Sports")[i % 2]) for i in range(8)]
    with pytest.raises(error, match=complaint):
        load_rows(tmp_path, train, [("t", "World")], classes=classes)


def test_a_task_without_classes_is_stored_as_before():
    entry = {"name": "t", "source": "cl_benchmark", "dataset": "TC/agnews"}
    assert "classes" not in PARSE(entry).model_dump(mode="json")
    assert PARSE({**entry, "classes": ["a", "b"]}).model_dump(mode="json")["classes"] == ["a", "b"]
