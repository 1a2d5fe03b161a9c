"""Tasks from files and from the hub: entries, formats, columns and labels."""

import csv
import json
import logging
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import DataError
from tests.support.task_files import NO_LIMITS, PARSE, load_rows, many, rows_of, write_jsonl
from trainers.data.tasks import FilesTask, load_task


def test_the_key_source_chooses_the_kind_of_task():
    task = PARSE({"name": "n", "source": "files", "train": "a.csv", "test": "b.json"})
    assert isinstance(task, FilesTask)
    assert (task.text_column, task.label_column, task.validation, task.max_train_rows) == ("text", "label", None, None)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"source": "web"}, "source"),
        ({"source": "docstrings", "task": "author"}, "task"),
        ({"source": "docstrings", "task": "kind", "name": "Kind"}, "name"),
        ({"source": "docstrings", "task": "kind", "name": "-kind"}, "name"),
        ({"source": "docstrings", "task": "kind", "max_test_rows": 0}, "max_test_rows"),
        ({"source": "docstrings", "task": "kind", "dataset": "x"}, "dataset"),
        (
            {"source": "files", "train": "a.txt", "test": "b.csv"},
            r"use a folder, or one of .jsonl, .json, .csv, .tsv, .parquet",
        ),
    ],
)
def test_a_wrong_task_is_rejected_by_key(entry, complaint):
    with pytest.raises(ValidationError, match=complaint):
        PARSE({"name": "n", **entry})


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"id": i, "text": text, "label": label} for i, (text, label) in enumerate(rows)]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(["", "text", "label"])  # as pandas writes a frame with its index
            writer.writerows(record.values() for record in records)
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_task(tmp_path, suffix):
    odd = [("NA", "null"), ("null", "01"), ('a, "quoted"\nline', "True"), ("ü 1.0", "null"), ("3", "01"), ("4", "True")]
    folder = tmp_path / "[2024] *"  # characters that a glob pattern would not match literally
    folder.mkdir()
    task = FilesTask(
        name="t",
        source="files",
        train=write_table(folder / f"train{suffix}", odd),
        test=write_table(folder / f"test{suffix}", odd[:1]),
    )
    loaded = load_task(task, NO_LIMITS, None, 0)
    assert loaded.labels == ("01", "True", "null")
    assert sorted(rows_of(loaded.train) + rows_of(loaded.validation)) == sorted(
        (text, loaded.labels.index(label)) for text, label in odd[1:]
    )
    assert rows_of(loaded.test) == [("NA", 2)]


def test_a_changed_file_is_read_again(tmp_path):
    assert rows_of(load_rows(tmp_path, many(9, "x"), [("old text", "a")]).test) == [("old text", 0)]
    before = (tmp_path / "test.jsonl").stat()
    write_jsonl(tmp_path / "test.jsonl", [("new text", "a")])
    os.utime(tmp_path / "test.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    task = FilesTask(name="t", source="files", train=tmp_path / "train.jsonl", test=tmp_path / "test.jsonl")
    assert rows_of(load_task(task, NO_LIMITS, None, 0).test) == [("new text", 0)]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.jsonl", '{"text": "a", "label"', r"train '.*x\.jsonl' cannot be read \(.*\); repair the file"),
        ("x.json", "[{]", r"train '.*x\.json' cannot be read"),
        ("x.parquet", "no parquet", r"train '.*x\.parquet' cannot be read"),
        ("x.csv", 'text,label\n"a,b\n', r"train '.*x\.csv' cannot be read"),
        ("x.csv", b"text,label\n\xff,b\n", r"train '.*x\.csv' cannot be read .*UTF-8"),
        ("x.csv", "text,label\na,b\nc,d,e\n", r"row 2 has 3 fields, the header 2; quote texts"),
        ("x.csv", "text,label\nHello, world,b\n", r"row 1 has 3 fields, the header 2; quote texts"),
        ("x.csv", "text,label\n", "has no rows; add some"),
        ("x.jsonl", "", "is empty"),
        ("x.jsonl", None, "does not exist"),
        ("x.csv", "Text,label\na,b\n", r"text_column 'text' is not a column of .*: Text, label; did you mean 'Text'\?"),
        ("x.jsonl", '{"text": "a", "labels": "b"}', r"label_column 'label' is not .*did you mean 'labels'\?"),
    ],
)
def test_an_unreadable_file_is_named_with_a_fix_and_no_noise(tmp_path, capfd, name, content, complaint):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    task = FilesTask(name="t", source="files", train=path, test=write_jsonl(tmp_path / "test.jsonl", [("a", "b")]))
    with pytest.raises(DataError, match=complaint) as caught:
        load_task(task, NO_LIMITS, None, 0)
    assert str(caught.value).startswith("task t: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert capfd.readouterr() == ("", "")


def test_loading_is_silent_and_leaves_global_settings_alone(tmp_path, capfd):
    import datasets

    logger = logging.getLogger("datasets")
    for level, switch in (
        (logging.INFO, datasets.enable_progress_bars),
        (logging.ERROR, datasets.disable_progress_bars),
    ):
        logger.setLevel(level)
        switch()
        disabled = datasets.are_progress_bars_disabled()
        load_rows(tmp_path, many(9, "x"), [("t", "a")])
        assert (logger.level, datasets.are_progress_bars_disabled()) == (level, disabled)
    logger.setLevel(logging.WARNING)
    datasets.enable_progress_bars()
    assert capfd.readouterr() == ("", "")


def dataset_folder(folder: Path, test_label: int = 1) -> Path:
    """A dataset repository as `datasets` finds them on the hub, with a ClassLabel column."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["zebra", "ant"])})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in {"train": [(f"x {i}", i % 2) for i in range(10)], "test": [("t", test_label)]}.items():
        columns = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return folder


def test_a_hub_dataset_maps_class_labels_to_their_names(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    entry = {"name": "h", "source": "hub", "dataset": str(dataset_folder(tmp_path)), "text_column": "sentence"}
    loaded = load_task(PARSE(entry), NO_LIMITS, None, 0)
    assert loaded.labels == ("zebra", "ant")
    assert rows_of(loaded.test) == [("t", 1)]
    assert load_task(PARSE(entry | {"labels": ["ant", "zebra"]}), NO_LIMITS, None, 0).test["label"][:] == [0]
    assert (
        load_task(PARSE(entry | {"validation_split": "test[:0]+train[:4]"}), NO_LIMITS, None, 0).validation.num_rows
        == 4
    )
    assert not (tmp_path / "cache").exists()  # a local folder may change, so it is not cached


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"test_split": "tset"}, r"test_split 'tset' of dataset .* cannot be read \(Unknown split"),
        ({"config_name": "de"}, r"cannot be read \(BuilderConfig 'de' not found"),
        ({"dataset": "/nowhere/at/all"}, r"train_split 'train' of dataset '/nowhere/at/all' cannot be read"),
        ({"text_column": "sentense"}, r"text_column 'sentense' .*did you mean 'sentence'\?"),
        ({}, r"row 1: label -1 is none of the labels .* choose another split"),
    ],
)
def test_a_hub_dataset_that_does_not_fit_is_an_error(tmp_path, change, complaint):
    entry = {"name": "h", "source": "hub", "dataset": str(dataset_folder(tmp_path, -1)), "text_column": "sentence"}
    with pytest.raises(DataError, match=complaint):
        load_task(PARSE(entry | change), NO_LIMITS, None, 0)
