"""Rows in files: what is read, what is written, and that it is written whole."""

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ConfigError, DataError
from cluster.storage import open_store
from orchestrator.delivery import tables
from orchestrator.delivery.tables import (
    cell,
    form_to_write,
    found,
    join,
    line,
    part_form,
    part_of,
    read,
    replacing,
    rows_in,
    table_of,
)

ROWS: list[list[dict[str, Any]]] = [
    [{"text": "a, b\nc", "n": 1, "scores": {"x": 0.5, "y": 0.5}}, {"text": "ü", "n": None, "scores": None}],
    [{"text": "d", "n": "two", "more": [1, 2]}],
]


def parts(folder: Path, form: str) -> list[Path]:
    made = [folder / f"{number}.{part_form(form)}" for number in range(len(ROWS))]
    for path, rows in zip(made, ROWS, strict=True):
        path.write_bytes(part_of(form, rows))
    return made


def test_lines_and_csv(tmp_path: Path) -> None:
    join(parts(tmp_path, "jsonl"), tmp_path / "all.jsonl", "jsonl")
    assert [json.loads(each) for each in (tmp_path / "all.jsonl").read_text().splitlines()] == [*ROWS[0], *ROWS[1]]
    join(parts(tmp_path, "csv"), tmp_path / "all.csv", "csv")
    back = list(csv.DictReader((tmp_path / "all.csv").open(newline="")))
    assert list(back[0]) == ["text", "n", "scores", "more"] and back[0]["text"] == "a, b\nc"
    assert json.loads(back[0]["scores"]) == {"x": 0.5, "y": 0.5} and back[2]["more"] == "[1, 2]" and back[1]["n"] == ""


def test_parquet_of_parts_with_other_columns_and_kinds(tmp_path: Path) -> None:
    """A column of numbers in one part and of strings in another becomes one of strings."""
    join(parts(tmp_path, "parquet"), tmp_path / "all.parquet", "parquet")
    back = pq.read_table(tmp_path / "all.parquet")
    assert back.num_rows == 3 and back.column("n").to_pylist() == ["1", None, "two"]
    assert back.column("scores").to_pylist()[0] == {"x": 0.5, "y": 0.5} and back.column("more").to_pylist()[2] == [1, 2]
    mixed = table_of([{"v": 1}, {"v": "a"}, {"v": [2]}])
    assert mixed.column("v").to_pylist() == ["1", "a", "[2]"]
    days = table_of([{"day": datetime.date(2026, 1, 2)}])
    assert days.schema.field("day").type == pa.date32()


def test_what_json_lacks() -> None:
    assert line({"v": float("nan"), "day": datetime.date(2026, 1, 2)}) == '{"v": null, "day": "2026-01-02"}\n'
    assert json.loads(line({"v": "\ud800"}))["v"] == "\ud800" and line({"v": "\ud800"}).encode()
    assert cell({"a": 1}) == '{"a": 1}' and cell("x") == "x"


def test_patterns_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.csv", "a.csv", "c.jsonl.gz", "d.txt"):
        Path(name).write_text("text\nx\n")
    assert found(["*.csv", "a.csv", "c.jsonl.gz"], "--input", tmp_path) == [
        Path("a.csv"),
        Path("b.csv"),
        Path("c.jsonl.gz"),
    ]
    with pytest.raises(DataError, match=r"--input 'e\*.csv': does not exist in .*; correct the path"):
        found(["e*.csv"], "--input", tmp_path)
    with pytest.raises(
        DataError, match=r"--input 'd.txt': is no file that ends in .jsonl, .json, .csv, .tsv, .parquet"
    ):
        found(["d.txt"], "--input", tmp_path)


def test_rows_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\nx,1\ny,2\n")
    (tmp_path / "b.json").write_text('[{"text": "z"}]')
    (tmp_path / "empty.jsonl").write_text("")
    paths = [tmp_path / name for name in ("a.csv", "b.json", "empty.jsonl")]
    rows = list(read("t", paths))
    assert [(number, row["text"]) for _, number, row in rows] == [(1, "x"), (2, "y"), (1, "z")]
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n[1]\n')
    with pytest.raises(DataError, match=r"task t: .*bad.jsonl' row 2 is no mapping"):
        list(read("t", [tmp_path / "bad.jsonl"]))


def test_forms_by_name() -> None:
    assert (
        form_to_write(Path("x.csv"), None, "--output") == "csv"
        and form_to_write(Path("x"), "jsonl", "--output") == "jsonl"
    )
    with pytest.raises(ConfigError, match=r"--output 'x.xlsx': ends in '.xlsx'; use one of .jsonl, .csv, .parquet"):
        form_to_write(Path("x.xlsx"), None, "--output")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), replacing(path) as staging:
        staging.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as staging:
        staging.write_text("after")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]
    assert tables.part_form("csv") == "jsonl"


def test_rows_of_parts_are_counted(tmp_path: Path) -> None:
    for form in ("jsonl", "csv", "parquet"):
        assert [rows_in(part) for part in parts(tmp_path, form)] == [2, 1]


def test_folders_and_objects(s3_bucket: str, tmp_path: Path) -> None:
    """Copies of objects go by their URIs in messages; a star stands for no slash."""
    folder, store = tmp_path / "in", open_store(f"s3://{s3_bucket}")
    folder.mkdir()
    for name in ("b.tsv", "a.csv.gz", "notes.md"):
        (folder / name).write_text("text\tn\nx\ty\n")
        store.upload(f"new/{name}", folder / name)
    store.upload("new/more/c.tsv", folder / "b.tsv")
    assert found([str(folder)], "--input", tmp_path) == [folder / "a.csv.gz", folder / "b.tsv"]
    paths = found([f"s3://{s3_bucket}/new/*.tsv"], "--input", tmp_path)
    assert list(read("t", paths)) == [(f"'s3://{s3_bucket}/new/b.tsv'", 1, {"text": "x", "n": "y"})]
    assert len(found([f"s3://{s3_bucket}/new"], "--input", tmp_path / "all")) == 3
    for uri, said in (("new/none.csv", "cannot be read"), ("no*.csv", "names no object that ends in .jsonl")):
        with pytest.raises(DataError, match=rf"--input 's3://.*': {said}"):
            found([f"s3://{s3_bucket}/{uri}"], "--input", tmp_path / "none")
