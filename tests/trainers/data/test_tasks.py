import csv
import hashlib
import json
import logging
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.errors import ConfigError, DataError
from trainers.data.tasks import DataConfig, FilesTask, TaskConfig, TaskData, load_task

ROOT = Path(__file__).resolve().parents[3]
REAL = Path(__file__).resolve().parents[4] / "shared/data/CL_Benchmark"
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


def benchmark(root: Path, train=None, test=None, labels=("World", "Sports"), dataset="TC/agnews") -> dict:
    """A CL_Benchmark folder; the arguments are what its files hold, None for rows that are fine."""
    folder = root / dataset
    folder.mkdir(parents=True)
    as_rows = lambda rows: [{"sentence": text, "label": label} for text, label in rows]  # noqa: E731
    good = [(f"sentence {i}", labels[i % 2]) for i in range(20)]
    (folder / "train.json").write_text(json.dumps(as_rows(good) if train is None else train))
    (folder / "test.json").write_text(json.dumps(as_rows([("last", labels[1])]) if test is None else test))
    (folder / "labels.json").write_text(json.dumps(labels))
    return {"name": "news", "source": "cl_benchmark", "dataset": dataset}


# ---------------------------------------------------------------- configuration


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
        ({"source": "files", "train": "a.txt", "test": "b.csv"}, r"use one of .jsonl, .json, .csv, .parquet"),
    ],
)
def test_a_wrong_task_is_rejected_by_key(entry, complaint):
    with pytest.raises(ValidationError, match=complaint):
        PARSE({"name": "n", **entry})


@pytest.mark.parametrize(
    "wrong", [{"validation_fraction": 0}, {"validation_fraction": 0.6}, {"max_validation_rows": 0}]
)
def test_data_config_bounds(wrong):
    with pytest.raises(ValidationError):
        DataConfig(**wrong)


# ---------------------------------------------------------------- CL_Benchmark


def test_cl_benchmark_keeps_the_order_of_labels_json_and_ignores_dev(tmp_path):
    task = PARSE(benchmark(tmp_path))
    (tmp_path / "TC/agnews/dev.json").write_text("not JSON")
    loaded = load_task(task, NO_LIMITS, tmp_path, seed=0)
    assert loaded.labels == ("World", "Sports")
    assert rows_of(loaded.test) == [("last", 1)]
    assert all(label == int(text.split()[1]) % 2 for text, label in rows_of(loaded.train))
    assert {name: str(feature.dtype) for name, feature in loaded.train.features.items()} == {
        "text": "string",
        "label": "int64",
    }
    assert (len(loaded.train), len(loaded.validation), loaded.warnings) == (18, 2, ())


@pytest.mark.parametrize("asked", ["agnews", "TC/agnew", "tc/AGNEWS"])
def test_an_unknown_dataset_lists_what_there_is(tmp_path, asked):
    entry = benchmark(tmp_path)
    benchmark(tmp_path, dataset="SC/yelp")
    with pytest.raises(DataError, match=r"available: SC/yelp, TC/agnews; did you mean 'TC/agnews'\?"):
        load_task(PARSE(entry | {"dataset": asked}), NO_LIMITS, tmp_path, 0)


def test_without_a_checkout_the_error_names_the_key_and_the_fix(tmp_path):
    task = PARSE({"name": "news", "source": "cl_benchmark", "dataset": "TC/agnews"})
    with pytest.raises(ConfigError, match=r"news.*data_dir.*--set data_dir=PATH.*ORTHOPLEX_DATA_DIR"):
        load_task(task, NO_LIMITS, None, 0)
    with pytest.raises(DataError, match=r"data_dir .*nowhere.* holds no"):
        load_task(task, NO_LIMITS, tmp_path / "nowhere", 0)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("train.json", '[{"sentence": "a", "label": "World"}', r"train\.json is not readable JSON"),
        ("train.json", '{"sentence": "a"}', r"train\.json holds .* must be a JSON list"),
        ("train.json", '[{"sentence": "a", "lable": "World"}]', r"train\.json row 1: .* has no label"),
        ("train.json", '["a"]', r"train\.json row 1: 'a' has no label and no sentence"),
        ("train.json", '[{"sentence": 7, "label": "World"}]', r"train\.json row 1: text 7 is not a string"),
        ("train.json", '[{"sentence": "\\ud800", "label": "World"}]', r"train\.json row 1: .*surrogate"),
        ("test.json", "[]", r"no test rows are left of the 0 in .*test\.json"),
        ("test.json", b"\xff\xfe", r"test\.json is not readable JSON"),
        ("labels.json", '"World"', r"labels\.json holds"),
        ("labels.json", "[1, 2]", r"labels\.json: \[1, 2\]"),
        ("labels.json", '["World"]', r"at least two are needed"),
        ("labels.json", '["World", "World ", "Sports"]', r"all different"),
        ("test.json", None, r"test\.json is absent"),
        ("labels.json", None, r"labels\.json is absent"),
        (
            "test.json",
            '[{"sentence": "", "label": "?"}, {"sentence": "a", "label": "sport"}]',
            r"task news: .*test\.json row 2: label 'sport' is none of the labels .*did you mean 'Sports'",
        ),
    ],
)
def test_a_malformed_benchmark_file_is_named_with_the_row_and_the_fix(tmp_path, file, content, complaint):
    entry = benchmark(tmp_path)
    path = tmp_path / "TC/agnews" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=complaint) as caught:
        load_task(PARSE(entry), NO_LIMITS, tmp_path, 0)
    assert "task news" in str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="no CL_Benchmark checkout beside the project")
@pytest.mark.parametrize(("dataset", "labels"), [("TC/agnews", 4), ("NLI/RTE", 2)])
def test_real_cl_benchmark(dataset, labels):
    data = DataConfig(max_test_rows=100, max_train_rows=1000)
    loaded = load_task(PARSE({"name": "x", "source": "cl_benchmark", "dataset": dataset}), data, REAL, 0)
    file = [row["sentence"].strip() for row in json.loads((REAL / dataset / "test.json").read_text())]
    assert loaded.test["text"][:] == file[:100]
    assert len(loaded.labels) == labels
    assert len(loaded.train) == 1000
    assert not texts(loaded.train) & texts(loaded.validation)
    assert not texts(loaded.train, loaded.validation) & set(file)
    shares = Counter(loaded.validation["label"])
    assert max(shares.values()) - min(shares.values()) <= 0.1 * len(loaded.validation)


# ---------------------------------------------------------------- cleaning and splitting


def test_every_removed_row_is_counted_and_the_test_rows_stay(tmp_path):
    train = [
        (" one ", "a"),
        ("one", "a"),  # the same once stripped
        ("two", "b"),
        ("two", "a"),  # in conflict: the first stays
        ("   ", "nonsense"),  # without text, so its label does not matter
        (None, "a"),
        ("leak", "a"),
        ("late leak", "b"),
        *many(10, "more"),
    ]
    test = [("leak", "a"), ("leak", "b"), ("", "a"), ("fine", "c"), ("late leak", "a")]
    loaded = load_rows(tmp_path, train, test, labels=["a", "b", "c"], max_test_rows=4)
    assert rows_of(loaded.test) == [("leak", 0), ("leak", 1), ("fine", 2)]
    kept = dict(rows_of(loaded.train) + rows_of(loaded.validation))
    assert kept == {"one": 0, "two": 1} | {f"more {i}": i % 2 for i in range(10)}
    counted = [warning.removeprefix("task t: ") for warning in loaded.warnings]
    assert counted == [
        f"2 row(s) without text dropped from train '{tmp_path}/train.jsonl'",
        f"1 row(s) without text dropped from test '{tmp_path}/test.jsonl'",
        "2 training row(s) removed: the text is in test",
        "1 training row(s) removed: an earlier one is the same",
        "1 training row(s) removed: an earlier one has the same text and another label",
        "1 label(s) without a training row: c",
    ]


def test_a_given_validation_split_is_cleaned_too_and_training_rows_give_way_to_it(tmp_path):
    train = [("shared", "a"), *many(10, "x")]
    validation = [("leak", "a"), ("shared", "a"), ("shared", "b"), ("own", "b")]
    loaded = load_rows(tmp_path, train, [("leak", "a")], validation)
    assert rows_of(loaded.validation) == [("shared", 0), ("own", 1)]
    assert texts(loaded.train) == {f"x {i}" for i in range(10)}
    assert [warning.split(": ", 1)[1] for warning in loaded.warnings] == [
        "1 validation row(s) removed: the text is in test",
        "1 validation row(s) removed: an earlier one has the same text and another label",
        "1 training row(s) removed: the text is in validation",
    ]
    capped = load_rows(tmp_path, train, [("leak", "a")], validation, data=DataConfig(max_validation_rows=1))
    assert len(capped.validation) == 1
    assert rows_of(capped.train) == rows_of(loaded.train)


@pytest.mark.parametrize("seed", range(3))
def test_no_text_is_ever_in_two_splits(tmp_path, seed):
    rng = random.Random(seed)
    draw = lambda: [(f" {rng.randrange(60)}" * 2, rng.choice("abc")) for _ in range(80)]  # noqa: E731
    train, test, validation = draw(), draw()[:20], draw()[:20]
    for given in (None, validation):
        loaded = load_rows(tmp_path, train, test, given, seed=seed)
        splits = [texts(loaded.train), texts(loaded.validation), texts(loaded.test)]
        assert sum(map(len, splits)) == len(set.union(*splits))
        assert len(splits[0]) == len(loaded.train)
        if given is None:
            assert splits[0] | splits[1] == {text.strip() for text, _ in train} - splits[2]


def test_validation_is_stratified_and_capped(tmp_path):
    train = [(f"a {i}", "a") for i in range(600)] + [(f"b {i}", "b") for i in range(300)] + [("c", "c")]
    for seed, data, sizes in (
        (0, NO_LIMITS, (60, 30)),
        (1, NO_LIMITS, (60, 30)),
        (2, DataConfig(max_validation_rows=30), (20, 10)),
        (3, DataConfig(max_validation_rows=300, validation_fraction=0.5), (200, 100)),
    ):
        shares = Counter(load_rows(tmp_path, train, [("t", "a")], data=data, seed=seed).validation["label"])
        assert [shares[0], shares[1]] == pytest.approx(sizes, abs=1)
        assert shares[2] == 0  # the only row of its label stays in train
    tiny = load_rows(tmp_path, many(4, "x"), [("t", "a")])
    assert (len(tiny.validation), len(tiny.train)) == (1, 3)


def test_validation_depends_on_content_and_seed_but_not_on_file_order(tmp_path):
    train = many(200, "x")
    first = texts(load_rows(tmp_path, train, [("t", "a")]).validation)
    random.Random(0).shuffle(train)
    assert texts(load_rows(tmp_path, train, [("t", "a")]).validation) == first
    assert texts(load_rows(tmp_path, train, [("t", "a")], max_train_rows=7).validation) == first
    assert texts(load_rows(tmp_path, train, [("t", "a")], seed=1).validation) != first


def test_max_train_rows_samples_after_decontamination_and_the_task_overrides_the_section(tmp_path):
    train, test = many(200, "x"), [(f"x {i}", "a") for i in range(100)]
    data = DataConfig(max_train_rows=40, max_test_rows=30)
    loaded = load_rows(tmp_path, train, test, data=data)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (40, 10, 30)
    assert not texts(loaded.train, loaded.validation) & {text for text, _ in test}
    numbers = [int(text.split()[1]) for text in loaded.train["text"]]
    assert numbers == sorted(numbers)
    assert numbers != list(range(numbers[0], numbers[0] + 40))
    given = [load_rows(tmp_path, train, test, [("own", "a")], data=data, seed=seed) for seed in (0, 1)]
    assert texts(given[0].train) != texts(given[1].train)
    more = load_rows(tmp_path, train, test, data=data, max_train_rows=60, max_test_rows=50)
    assert (len(more.train), len(more.test)) == (60, 50)
    assert texts(more.train) > texts(loaded.train)


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


# ---------------------------------------------------------------- files


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
        ("x.csv", b"text,label\n\xff,b\n", r"train '.*x\.csv' cannot be read .*utf-8"),
        ("x.csv", "text,label\na,b\nc,d,e\n", r"row 2 has 3 fields, the header 2; quote texts"),
        ("x.csv", "text,label\nHello, world,b\n", r"row 1 has 3 fields, the header 2; quote texts"),
        ("x.csv", "text,label\n", "no row below its header"),
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


# ---------------------------------------------------------------- hub


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


# ---------------------------------------------------------------- another process

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
