"""Files of four kinds, folders, object stores and data sets give the same rows."""

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cluster.errors import DataError
from cluster.storage import open_store
from trainers.data.generative.config import AnyTask
from trainers.data.generative.reading import file_sources, hub_sources

ROWS = [{"prompt": f"q, {i}\nü", "completion": str(i)} for i in range(5)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".jsonl":
        path.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def sources(scratch: Path, **splits: Any) -> Any:
    given = {"name": "t", "source": "files", "format": "prompt_completion", **splits}
    return file_sources(TypeAdapter(AnyTask).validate_python(given), scratch)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_files(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix}", ROWS)
    found = sources(tmp_path, train=str(path), test=str(path))
    assert [*found] == ["train", "test"] and found["train"].size == path.stat().st_size
    expected = [(f"train {str(path)!r}", i + 1, row) for i, row in enumerate(ROWS)]
    assert [*found["train"].rows()] == [*found["train"].rows()] == expected


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    second, first = write(folder / "b.csv", ROWS[2:]), write(folder / "a.jsonl", ROWS[:2])
    (folder / "README.md").write_text("no data")
    found = sources(tmp_path, train=str(folder), test=str(first))["train"]
    assert [row for *_, row in found.rows()] == ROWS
    assert [*found.rows()][2][:2] == (f"train {str(second)!r}", 1)


def test_an_object_store(s3_bucket: str, tmp_path: Path) -> None:
    store = open_store(f"s3://{s3_bucket}")
    for name, rows in (("a.jsonl", ROWS[:3]), ("b.jsonl", ROWS[3:])):
        store.upload(f"data/{name}", write(tmp_path / name, rows))
    uri = f"s3://{s3_bucket}/data"
    found = sources(tmp_path / "scratch", train=uri, test=f"{uri}/b.jsonl")
    assert [row for *_, row in found["train"].rows()] == ROWS
    assert [*found["test"].rows()] == [(f"test '{uri}/b.jsonl'", i + 1, row) for i, row in enumerate(ROWS[3:])]
    for missing, message in ((f"{uri}/c.jsonl", "cannot be read"), (f"{uri}x", "holds no object")):
        with pytest.raises(DataError, match=message):
            sources(tmp_path / "more", train=missing, test=uri)


def test_a_file_that_is_named_in_two_ways_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = write(tmp_path / "a.csv", ROWS[:2]), write(tmp_path / "b.csv", ROWS[2:])
    monkeypatch.chdir(tmp_path)
    found = sources(tmp_path, train=["a.csv", str(path), "./a.csv", "b.csv"], test=str(other))["train"]
    assert [row for *_, row in found.rows()] == ROWS and found.size == path.stat().st_size + other.stat().st_size


def test_a_data_set_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.data.tables import HubDataset

    looked: list[Any] = []
    found_as = HubDataset.found
    monkeypatch.setattr(HubDataset, "found", lambda *how: looked.append(how) or found_as(*how))
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", ROWS)
    write(folder / "test.jsonl", ROWS[:2])
    given = {"name": "t", "source": "hub", "dataset": str(folder), "format": "prompt_completion"}
    task: Any = TypeAdapter(AnyTask).validate_python(given)
    found = hub_sources(task, tmp_path / "cache")
    assert [row for *_, row in found["train"].rows()] == ROWS and len([*found["test"].rows()]) == 2
    assert len(looked) == 1  # for both splits
    with pytest.raises(DataError, match=r"task t: test_split 'tests' of dataset .* cannot be read"):
        hub_sources(task.model_copy(update={"test_split": "tests"}), tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json.bz2", ".csv.xz", ".jsonl"])
def test_compressed_files(suffix: str, tmp_path: Path) -> None:
    """By their first bytes, whatever their names say; in folders too."""
    plain = write(tmp_path / f"a.{suffix.split('.')[1]}", ROWS)
    (tmp_path / "f").mkdir()
    path = tmp_path / "f" / f"b{suffix}"
    path.write_bytes({".bz2": bz2, ".xz": lzma}.get(path.suffix, gzip).compress(plain.read_bytes()))
    found = sources(tmp_path, train=str(path), test=str(path.parent))
    assert [row for *_, row in found["train"].rows()] == [row for *_, row in found["test"].rows()] == ROWS


def test_one_mapping_around_the_rows_and_rows_of_one_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    turns = [{"role": "user", "content": "a"}]
    for held, rows in (({"data": ROWS}, ROWS), ({"messages": turns}, [{"messages": turns}]), (ROWS[0], ROWS[:1])):
        for indent in (None, 2):
            path.write_text(json.dumps(held, indent=indent))
            assert [row for *_, row in sources(tmp_path, train=str(path), test=str(path))["train"].rows()] == rows
    path.write_bytes(b"\r".join(json.dumps(row).encode() for row in ROWS))
    assert [row for *_, row in sources(tmp_path, train=str(path), test=str(path))["train"].rows()] == ROWS


def test_a_saved_data_set(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    both = DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:2])})
    both.save_to_disk(tmp_path / "both")
    both["train"].save_to_disk(tmp_path / "one")
    given = {"name": "t", "source": "hub", "dataset": str(tmp_path / "both"), "format": "prompt_completion"}
    found = hub_sources(TypeAdapter(AnyTask).validate_python(given), tmp_path / "cache")
    assert [row for *_, row in found["train"].rows()] == ROWS and len([*found["test"].rows()]) == 2
    alone: Any = TypeAdapter(AnyTask).validate_python({**given, "dataset": str(tmp_path / "one")})
    with pytest.raises(DataError, match=r"test_split 'test' of dataset .* \(the folder has the splits train\)"):
        hub_sources(alone, tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "does not exist; correct the path under `train`"),
        ("a.jsonl", b"", "is empty; correct the path under `train`"),
        ("a.jsonl", b'{"prompt": 1}\n{"prompt"', "cannot be read (row 2: Expecting"),
        ("a.json", b"[" * 200_000, "cannot be read (row 1 is nested too deeply)"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": 1}')[:-9], "cannot be read"),
        ("a.csv", b"PK\x03\x04", "it is a zip archive; unpack it"),
        ("a.json", "[]".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (
            "a.jsonl",
            b'{"prompt": "\xff"}',
            "line 1: byte 0xff is not UTF-8, and 'ÿ' in Windows-1252); save it as UTF-8",
        ),
        ("a.csv", b"prompt,completion\na,b,c\n", "row 1 has 3 fields, the header 2"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("folder", None, "does not exist"),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path, good = tmp_path / name, write(tmp_path / "good.jsonl", ROWS)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        [*sources(tmp_path, train=str(path), test=str(good))["train"].rows()]
    assert str(error.value).startswith(f"task t: train {str(path)!r}") and message in str(error.value)


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match=r"holds no file that ends in \.jsonl"):
        sources(tmp_path, train=str(tmp_path / "f"), test="x.jsonl")


def test_patterns_lists_and_tabs(s3_bucket: str, tmp_path: Path) -> None:
    """Of this machine and of a bucket, and both in one list."""
    store = open_store(f"s3://{s3_bucket}")
    flat = [{"prompt": row["prompt"].replace("\n", " "), "completion": row["completion"]} for row in ROWS]
    first = tmp_path / "a.tsv"
    first.write_text("prompt\tcompletion\n" + "".join(f"{row['prompt']}\t{row['completion']}\n" for row in flat[:2]))
    store.upload("new/b.jsonl", write(tmp_path / "b.jsonl", flat[2:]))
    names = [str(tmp_path / "*.tsv"), str(first), f"s3://{s3_bucket}/new/*.jsonl"]
    found = sources(tmp_path / "scratch", train=names, test=str(first))["train"]
    rows = [*found.rows()]
    assert [row for *_, row in rows] == flat
    assert [place for *place, _ in rows][1:3] == [[f"train '{first}'", 2], [f"train 's3://{s3_bucket}/new/b.jsonl'", 1]]
    digest = found.digest
    store.upload("new/b.jsonl", write(tmp_path / "b.jsonl", flat[3:]))
    assert sources(tmp_path / "again", train=names, test=str(first))["train"].digest != digest


@pytest.mark.parametrize(
    "text", ['{"prompt": "a", "completion": "b", "prompt": "c"}', '[{"prompt": {"x": 1, "x": 2}}]']
)
def test_a_key_that_is_there_twice_is_refused(text: str, tmp_path: Path) -> None:
    """Also below another key, and in any row: the last value would be taken in silence."""
    path = tmp_path / "twice.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"cannot be read \(row 1: there are two keys '(prompt|x)'\); repair the file"):
        [*sources(tmp_path, train=str(path), test=str(path))["train"].rows()]
