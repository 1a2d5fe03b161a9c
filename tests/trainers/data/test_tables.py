"""The same rows are the same task, from any source; and what the hub's own settings say of a dataset is kept."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from tests.support.task_files import NO_LIMITS, PARSE, load_rows, many, rows_of
from trainers.data.tables import class_name, read_files, read_hub
from trainers.data.tasks import TaskData, load_task

Rows = list[tuple[Any, Any]]
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n{files}{more}---\n"


def write(path: Path, rows: Rows) -> Path:
    """Rows of text and label, and a column that no task names, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"n": [i], "text": text, "label": label} for i, (text, label) in enumerate(rows)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["n", "text", "label"])
            writer.writeheader()
            writer.writerows(records)
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


def from_files(folder: Path, suffix: str, train: Rows, test: Rows, **entry: Any) -> TaskData:
    paths = {key: str(write(folder / f"{key}{suffix}", rows)) for key, rows in (("train", train), ("test", test))}
    return load_task(PARSE({"name": "t", "source": "files", **paths, **entry}), NO_LIMITS, None, 0)


def from_folder(folder: Path, suffix: str, train: Rows, test: Rows, **entry: Any) -> TaskData:
    write(folder / f"train{suffix}", train)
    write(folder / f"test{suffix}", test)
    return load_task(PARSE({"name": "t", "source": "hub", "dataset": str(folder), **entry}), NO_LIMITS, None, 0)


def everywhere(folder: Path, train: Rows, test: Rows, **entry: Any) -> dict[str, TaskData]:
    """The task from files of each format, and from folders as `datasets` finds them."""
    return {
        f"{way.__name__}{suffix}": way(folder / f"{way.__name__}{suffix[1:]}", suffix, train, test, **entry)
        for suffix in (".csv", ".jsonl", ".json", ".parquet")
        for way in (from_files, from_folder)
    }


PAIRS = [
    ("None", "NA"), ("007", "7"), ("2024-01-01", "2025-01-01"), ("1.0", "2.0"), ("nan", "null"), (" a", "ä\u2028"),
    (1, 0), (True, False), (1.0, 0.0), ("true", "false"), ("1e5", "-1"), ("x,y", 'x"y'),
]  # fmt: skip


@pytest.mark.parametrize("given", PAIRS)
def test_words_that_readers_like_to_interpret(tmp_path, given):
    texts = ["NA", "None", "007", "1.0", "2024-01-01", "true", "nan", 'a "b",\r\nc', "\u2028x\x85y", "a\0b", "[1]", "-"]
    train = [(text, given[i % 2]) for i, text in enumerate(texts)]
    found = everywhere(tmp_path, train, [("t", given[0])])
    words = tuple(sorted(str(word).strip() for word in given))
    expected = {(text.strip(), words.index(str(label).strip())) for text, label in train}
    for where, task in found.items():
        assert task.labels == words, where
        assert {*rows_of(task.train), *rows_of(task.validation)} == expected, where
    assert len({task.fingerprint for task in found.values()}) == 1
    assert len({task.warnings for task in found.values()}) == 1


@pytest.mark.parametrize("given", [(0, 1), (0.0, 1.0), (False, True), ("0", "1"), ("no", "yes")])
def test_given_labels(tmp_path, given):
    train = [(f"x {i}", given[i % 2]) for i in range(6)]
    found = everywhere(tmp_path, train, [("t", given[1])], labels=["no", "yes"])
    assert all(rows_of(task.test) == [("t", 1)] for task in found.values())
    assert len({task.fingerprint for task in found.values()}) == 1


@pytest.mark.slow
def test_any_rows(tmp_path):
    """Whatever hypothesis thinks of."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    written = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    word = st.one_of(written, st.sampled_from([word for given in PAIRS for word in given if isinstance(word, str)]))
    word = word.filter(str.strip)
    number = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
    labels = st.one_of(
        st.lists(word, min_size=2, max_size=3, unique_by=str.strip),
        st.lists(number.map(float), min_size=2, max_size=3, unique=True).filter(lambda found: -0.0 not in found),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=3, unique=True),
        st.just([True, False]),
    )

    @hypothesis.settings(max_examples=10, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        st.lists(word, min_size=3, max_size=9, unique_by=str.strip).filter(lambda texts: len(texts) > 2), labels
    )
    def holds(texts, labels):
        rows = [(text, labels[i % len(labels)]) for i, text in enumerate(texts)]
        found = everywhere(tmp_path, rows, [(texts[0] + "!", labels[0])])
        assert len({(task.fingerprint, task.warnings) for task in found.values()}) == 1
        first = next(iter(found.values()))
        kept = {*rows_of(first.train), *rows_of(first.validation), *rows_of(first.test)}
        places = {text.strip(): first.labels.index(str(label).strip()) for text, label in rows}
        assert kept == {*places.items(), ((texts[0] + "!").strip(), places[texts[0].strip()])}

    holds()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("value", [["joy"], {"name": "joy"}])
def test_lists_and_objects_are_no_labels(tmp_path, suffix, value):
    for way in (from_files, from_folder):
        with pytest.raises(DataError, match=r"row 1: label .*joy.* is not one label"):
            way(tmp_path / way.__name__, suffix, [("a", value), ("b", value)], [("c", value)])


def test_lines_whose_unnamed_columns_change_their_type(tmp_path):
    """As a column that is null for the first 10 MB and an object afterwards: nobody asked for it."""
    odd = [None, {"page": 1}, "n/a", [1, "a"], 3, 2.5, True, {"page": "x", "more": [{}]}]
    lines = [{"text": f"row {i}", "label": "ab"[i % 2], "meta": each} for i, each in enumerate(odd)]
    for key in ("train", "test"):
        (tmp_path / f"{key}.jsonl").write_text(
            "".join(json.dumps({**line, "text": key + line["text"]}) + "\n" for line in lines)
        )
    paths = {key: tmp_path / f"{key}.jsonl" for key in ("train", "test")}
    files = load_task(PARSE({"name": "t", "source": "files", **paths}), NO_LIMITS, None, 0)
    hub = load_task(PARSE({"name": "t", "source": "hub", "dataset": str(tmp_path)}), NO_LIMITS, None, 0)
    assert files.test.num_rows == len(odd)
    assert files.fingerprint == hub.fingerprint


# ---------------------------------------------------------------- what a dataset says of itself


def card(folder: Path, more: str = "", config: str = "") -> None:
    names = sorted(path.name for path in folder.iterdir() if path.stem.split(".")[0] in ("train", "test"))
    files = "".join(f"  - split: {name.split('.')[0]}\n    path: {name}\n" for name in names)
    (folder / "README.md").write_text(CARD.format(files=files, more=config + more))


CLASSES = (
    "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n"
    "        names:\n          '0': zebra\n          '1': ant\n"
)


def test_class_names_of_a_card(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"00{i},{i % 2}\n" for i in range(6)))
    (tmp_path / "test.csv").write_text("text,label\nNA,1\n")
    card(tmp_path, CLASSES)
    task = PARSE({"name": "t", "source": "hub", "dataset": str(tmp_path)})
    loaded = load_task(task, NO_LIMITS, None, 0)
    assert (loaded.labels, rows_of(loaded.test)) == (("zebra", "ant"), [("NA", 1)])
    assert sorted(rows_of(loaded.train) + rows_of(loaded.validation)) == [(f"00{i}", i % 2) for i in range(6)]


def test_another_separator_and_other_options_of_a_card(tmp_path):
    rows = "".join(f"00{i}{{0}}x, {i % 2}\n" for i in range(6))
    for key in ("train", "test"):
        text = "text{0}label\n" + rows if key == "train" else "text{0}label\nNA{0}x, 1\n"
        (tmp_path / f"{key}.csv").write_text(text.format("\t"))
    card(tmp_path, config='  sep: "\\t"\n')
    task = PARSE({"name": "t", "source": "hub", "dataset": str(tmp_path)})
    loaded = load_task(task, NO_LIMITS, None, 0)
    assert (loaded.labels, rows_of(loaded.test)) == (("x, 0", "x, 1"), [("NA", 1)])
    for key in ("train", "test"):
        path = tmp_path / f"{key}.csv"
        path.write_text("# made by hand\n" + path.read_text())
    card(tmp_path, config='  sep: "\\t"\n  skiprows: 1\n')
    assert load_task(task, NO_LIMITS, None, 0).fingerprint == loaded.fingerprint  # parsed by `datasets`, as strings


def test_slices_of_splits(tmp_path):
    write(tmp_path / "train.csv", many(10, "x"))
    write(tmp_path / "test.csv", many(4, "t"))
    entry = {"name": "t", "source": "hub", "dataset": str(tmp_path)}
    raw = read_hub(PARSE({**entry, "train_split": "train[:50%]+test[-1:]", "test_split": "test[1:3]"}))
    assert raw.train.texts == ["x 0", "x 1", "x 2", "x 3", "x 4", "t 3"]
    assert (raw.test.texts, raw.test.labels) == (["t 1", "t 2"], ["b", "a"])


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    """With strings it is the task that files are; class indices are named as the data set names them."""
    from datasets import ClassLabel, Dataset, DatasetDict

    rows = {"train": many(6, "x"), "test": [("007", "a"), ("None", "b")]}
    tables = {
        key: Dataset.from_dict({"text": [text for text, _ in each], "label": [label for _, label in each]})
        for key, each in rows.items()
    }
    DatasetDict(tables).save_to_disk(tmp_path / "words")
    entry = {"name": "t", "source": "hub", "dataset": str(tmp_path / "words")}
    files = from_files(tmp_path / "files", ".jsonl", rows["train"], rows["test"])
    assert load_task(PARSE(entry), NO_LIMITS, None, 0).fingerprint == files.fingerprint
    indices = {key: each.cast_column("label", ClassLabel(names=["b", "a"])) for key, each in tables.items()}
    DatasetDict(indices).save_to_disk(tmp_path / "indices")
    loaded = load_task(PARSE({**entry, "dataset": str(tmp_path / "indices")}), NO_LIMITS, None, 0)
    assert (loaded.labels, rows_of(loaded.test)) == (("b", "a"), [("007", 1), ("None", 0)])
    tables["train"].save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match=r"test_split 'test' of dataset .* \(the folder has the splits train\)"):
        load_task(PARSE({**entry, "dataset": str(tmp_path / "one")}), NO_LIMITS, None, 0)
    with pytest.raises(DataError, match="text_column 'body' is not a column"):
        load_task(PARSE({**entry, "text_column": "body"}), NO_LIMITS, None, 0)


def test_a_dataset_in_another_form_is_left_to_datasets(tmp_path):
    from datasets import Dataset

    for key, rows in (("train", many(6, "x")), ("test", [("007", "a")])):
        table = Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        table.save_to_disk(tmp_path / key)
        for path in (tmp_path / key).glob("*.arrow"):
            path.rename(tmp_path / f"{key}.arrow")
        for path in (tmp_path / key).iterdir():
            path.unlink()
        (tmp_path / key).rmdir()
    loaded = load_task(PARSE({"name": "t", "source": "hub", "dataset": str(tmp_path)}), NO_LIMITS, None, 0)
    assert rows_of(loaded.test) == [("007", 0)]


@pytest.mark.parametrize(
    ("value", "name"),
    [(0, "zebra"), ("1", "ant"), ("ant", "ant"), (-1, -1), (2, 2), ("2", "2"), (None, None), (1.0, 1.0), ("3", "3")],
)
def test_a_class_index_becomes_a_name(value, name):
    assert class_name(value, ("zebra", "ant")) == name
    assert class_name("2", ("2", "1", "0")) == "2"  # a name that looks like an index
    assert class_name(value, ()) == value


# ---------------------------------------------------------------- files


def test_compressed_files_by_name(tmp_path):
    for key, rows in (("train", many(6, "x")), ("test", [("NA", "a")])):
        plain = write(tmp_path / f"{key}.csv", rows)
        (tmp_path / f"{key}.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
        (tmp_path / f"{key}.jsonl").write_bytes(gzip.compress(write(tmp_path / "j.jsonl", rows).read_bytes()))
    found = []
    for suffix in (".csv", ".csv.gz", ".jsonl"):
        paths = {key: tmp_path / f"{key}{suffix}" for key in ("train", "test")}
        found.append(load_task(PARSE({"name": "t", "source": "files", **paths}), NO_LIMITS, None, 0).fingerprint)
    assert len({*found}) == 1


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.csv", "text,label\na,b\n".encode("utf-16"), r"cannot be read \(it is UTF-16; save it as UTF-8\)"),
        ("x.csv", b"text,label\n\xe9,b\n", r"is not UTF-8.*; save it as UTF-8"),
        ("x.jsonl", b"\n \n", "x.jsonl' has no rows; add some"),
        ("x.jsonl", gzip.compress(b"", mtime=0), "x.jsonl' has no rows; add some"),
        ("x.csv", b"text,label,text\na,b,c\n", r"two columns 'text'; rename one of them\); repair the file"),
        (
            "x.jsonl",
            b'{"text": "a", "label": 1}\n{"text": ["a"], "label": 2}',
            r"row 2: text \['a'\] is not a string; write",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    write(tmp_path / "test.csv", [("t", "a")])
    with pytest.raises(DataError, match=f"task t: train .*{complaint}"):
        load_task(
            PARSE({"name": "t", "source": "files", "train": tmp_path / name, "test": tmp_path / "test.csv"}),
            NO_LIMITS,
            None,
            0,
        )


def test_text_and_label_may_be_one_column(tmp_path):
    path = write(tmp_path / "train.csv", many(4, "x"))
    raw = read_files(PARSE({"name": "t", "source": "files", "train": path, "test": path, "label_column": "text"}))
    assert raw.train.labels == raw.train.texts == ["x 0", "x 1", "x 2", "x 3"]


def test_float_labels_as_pandas_writes_them_after_a_gap(tmp_path):
    rows = [(f"x {i}", float(i % 2)) for i in range(10)]
    assert load_rows(tmp_path, rows, [("t", 1.0)], labels=["negative", "positive"]).test["label"][:] == [1]
    (note,) = load_rows(tmp_path, rows, [("t", 1.0), ("u", 0.0)]).warnings[:1]
    assert "its labels are numbers (0.0, 1.0), not words; name them in that order under `labels`" in note
