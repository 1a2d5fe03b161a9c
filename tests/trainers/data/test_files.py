"""Paths, patterns, folders and lists under the keys of a task."""

import gzip
from pathlib import Path

import pytest

from cluster.errors import DataError
from tests.support.task_files import NO_LIMITS, PARSE, many, rows_of, texts, write_jsonl
from trainers.data.files import data_files, keys_at, matching, named, once, within
from trainers.data.tasks import TaskData, load_task


def load(seed: int = 0, **entry: object) -> TaskData:
    return load_task(PARSE({"name": "t", "source": "files", **entry}), NO_LIMITS, None, seed)


def tsv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("id\ttext\tlabel\n" + "".join(f"1\t{text}\t{label}\n" for text, label in rows))
    return path


def test_a_list_a_pattern_and_a_folder_are_their_files_in_order(tmp_path: Path) -> None:
    """Whatever their forms; the fingerprint is that of the same rows in one file, and covers every file."""
    train, test = many(30, "train"), many(5, "test")
    whole = load(train=write_jsonl(tmp_path / "whole.jsonl", train), test=write_jsonl(tmp_path / "test.jsonl", test))
    folder = tmp_path / "in"
    folder.mkdir()
    first, second = tsv(folder / "a.tsv", train[:10]), folder / "b.jsonl.gz"
    second.write_bytes(gzip.compress(write_jsonl(tmp_path / "rest.jsonl", train[10:]).read_bytes()))
    (folder / "README.md").write_text("no data")
    ways: list[object] = [[first, second], [str(folder / "[ab].*")], folder, [str(folder / "*.tsv"), second, first]]
    for way in ways:
        found = load(train=way, test=[str(tmp_path / "te*.jsonl")])
        assert (found.fingerprint, found.warnings) == (whole.fingerprint, whole.warnings), way
    write_jsonl(tmp_path / "rest.jsonl", [*train[10:-1], ("other", "a")])
    second.write_bytes(gzip.compress((tmp_path / "rest.jsonl").read_bytes()))
    assert load(train=folder, test=tmp_path / "test.jsonl").fingerprint != whole.fingerprint


def test_errors_name_the_file_and_its_own_row(tmp_path: Path) -> None:
    first, second = (write_jsonl(tmp_path / f"{name}.jsonl", many(3, name)) for name in "ab")
    with second.open("a") as file:
        file.write('{"text": 7, "label": "a"}\n')
    with pytest.raises(DataError, match=rf"^task t: train '{second}' row 4: text 7 is not a string; quote it"):
        load(train=[first, second], test=first)
    bare = tmp_path / "bare.csv"
    bare.write_text("text\nx\n")
    with pytest.raises(DataError, match=rf"label_column 'label' is not a column of train '{bare}'"):
        load(train=[first, bare], test=first)
    wide = tmp_path / "wide.tsv"
    wide.write_text("text\tlabel\nx\ta\ty\n")
    with pytest.raises(DataError, match=r"row 1 has 3 fields, the header 2; quote texts that contain a tab"):
        load(train=wide, test=first)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "none.csv").touch()
    for name, said in (
        ("n*.tsv", "does not exist"),
        ("none.csv", "is empty; correct the path under `train`"),
        ("empty", "holds no file that ends in .jsonl, .json, .csv, .tsv, .parquet; add one"),
        ("a.*", "ends in '.txt'; use a folder, or one of"),
    ):
        with pytest.raises(DataError, match=rf"task t: train '.*': ?{said}|task t: train '.*' {said}"):
            data_files("t", "train", [tmp_path / name])


def test_keys_of_objects() -> None:
    there = ["d/a.csv", "d/b.tsv", "d/c/d.csv", "d/notes.md", "e/a.csv"]

    def listed_at(prefix: str) -> list[str]:
        return [key for key in there if key.startswith(prefix)]

    assert keys_at("d", listed_at) == keys_at("d/", listed_at) == ["d/a.csv", "d/b.tsv", "d/c/d.csv"]
    assert keys_at("d/*.csv", listed_at) == ["d/a.csv"] and keys_at("*/a.csv", listed_at) == ["d/a.csv", "e/a.csv"]
    assert keys_at("x/y.csv", listed_at) == ["x/y.csv"] and keys_at("", listed_at) == [*there[:3], there[4]]
    assert named(Path("/tmp/x/s3:/bucket/a.csv")) == "s3://bucket/a.csv" and named(Path("a/b.csv")) == "a/b.csv"


def test_a_test_share_is_carved_by_label_and_seed(tmp_path: Path) -> None:
    """It depends on texts, labels and seed, not on the order of the rows or how they lie in files."""
    rows = [(f"row {i}", "a" if i % 4 else "b") for i in range(200)] + [("row 1", "a"), ("row 0", "b")]
    path = write_jsonl(tmp_path / "all.jsonl", rows)
    found = load(train=path)
    assert len(found.test) == 20 and sorted(label for _, label in rows_of(found.test)).count(1) == 5
    assert not texts(found.test) & texts(found.train, found.validation)
    assert len(found.train) + len(found.validation) + len(found.test) == 200
    assert found.warnings[-1] == (
        "task t: no test rows are given: 20 of 200 training rows, drawn by the seed, are the test set; name files that "
        "hold it, or another test_share"
    )
    mixed = [write_jsonl(tmp_path / "x.jsonl", rows[120::-1]), write_jsonl(tmp_path / "y.jsonl", rows[121:])]
    assert texts(load(train=mixed).test) == texts(found.test) != texts(load(train=path, seed=1).test)
    assert len(load(train=path, test_share=0.25).test) == 50 and len(load(train=path, max_test_rows=3).test) == 3
    assert load(train=path).fingerprint == found.fingerprint


def test_a_dataset_without_test_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", many(40, "row"))
    entry = {"name": "t", "source": "hub", "dataset": str(tmp_path), "test_share": 0.2}
    found = load_task(PARSE(entry), NO_LIMITS, None, 0)
    assert len(found.test) == 8 and found.fingerprint == load(train=tmp_path, test_share=0.2).fingerprint


def test_what_is_stored_of_an_entry() -> None:
    """A share that was not given is stored, so that another default would change no run; what names its test rows is
    stored as before."""
    entry = {"name": "t", "source": "files", "train": "a.csv"}
    stored = PARSE(entry).model_dump(mode="json")
    assert stored["test_share"] == 0.1 and stored["test"] is None and PARSE(stored) == PARSE(entry)
    before = PARSE({**entry, "test": "b.csv"}).model_dump(mode="json")
    assert "test_share" not in before and (before["train"], before["test"]) == ("a.csv", "b.csv")
    assert PARSE({**entry, "train": ["a.csv", "b.csv"]}).model_dump(mode="json")["train"] == ["a.csv", "b.csv"]
    hub = {"name": "t", "source": "hub", "dataset": "d"}
    assert PARSE(hub).model_dump(mode="json")["test_split"] == "test"
    assert "test_share" not in PARSE(hub).model_dump(mode="json")
    for given in ({"test_split": None}, {"test_share": 0.1}):
        assert PARSE({**hub, **given}).splits.keys() == {"train"} and PARSE({**hub, **given}).test_share == 0.1


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"test": "b.csv", "test_share": 0.2}, "test_share takes test rows from the training rows, and test names oth"),
        ({"test_share": 0.6}, "less than or equal to 0.5"),
        ({"train": []}, "is an empty list; give the path"),
        ({"train": ["a.csv", "b.txt"]}, r"'b.txt' ends in '.txt'; use a folder, or one of"),
        ({"train": ["a.csv", " "]}, "is empty; give the path"),
        ({"train": 5}, "5: should be a path, or a list of paths"),
    ],
)
def test_what_an_entry_may_not_say(entry: dict[str, object], complaint: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match=complaint):
        PARSE({"name": "t", "source": "files", "train": "a.csv", **entry})


def test_hidden_files_are_asked_for_by_name_alone(tmp_path: Path) -> None:
    """As the ones that macOS writes beside each file."""
    for name in ("a.csv", "._a.csv"):
        (tmp_path / name).write_text("x")
    assert within(tmp_path) == matching(tmp_path / "*.csv") == [tmp_path / "a.csv"]
    assert matching(tmp_path / "._a.csv") == matching(tmp_path / "._*.csv") == [tmp_path / "._a.csv"]


def test_a_file_that_is_written_in_two_ways_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to it is another: caches link different names to one file."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "b.csv").symlink_to("a.csv")
    monkeypatch.chdir(tmp_path)
    spelt = [Path("a.csv"), tmp_path / "a.csv", Path("sub/../a.csv"), Path("b.csv")]
    assert once(spelt) == [Path("a.csv"), Path("b.csv")]
