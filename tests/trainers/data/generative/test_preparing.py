"""Which rows go where, by hand; equal data have equal fingerprints; what is large is prepared once."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cluster.errors import DataError
from trainers.data.generative import preparing
from trainers.data.generative.config import AnyTask
from trainers.data.generative.preparing import prepare_task
from trainers.data.tasks import DataConfig, TaskData

Pair = tuple[str, str]


def write(path: Path, rows: list[Pair]) -> str:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows), "utf-8")
    return str(path)


def task(folder: Path, train: list[Pair], test: list[Pair], validation: list[Pair] | None = None, **more: Any) -> Any:
    given = {"name": "t", "source": "files", "format": "prompt_completion", **more}
    splits = {"train": train, "test": test, "validation": validation}
    given |= {key: write(folder / f"{key}.jsonl", rows) for key, rows in splits.items() if rows is not None}
    return TypeAdapter(AnyTask).validate_python(given)


def pairs(split: Any) -> list[Pair]:
    return [(row["prompt"], row["completion"]) for row in map(json.loads, split["row"])]


def prepared(folder: Path, *splits: Any, seed: int = 0, data: DataConfig | None = None, **more: Any) -> TaskData:
    return prepare_task(task(folder, *splits, **more), data or DataConfig(), None, seed)


def test_what_is_removed_and_counted(tmp_path: Path) -> None:
    train = [("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), (" x ", "3"), ("c", "1")]
    data = prepared(tmp_path, train, [("x", "9"), ("x", "9")], [("b", "7"), ("b", "7"), ("d", "0"), ("x", "8")])
    assert pairs(data.train) == [("a", "1"), ("a", "2"), ("c", "1")]
    assert pairs(data.validation) == [("b", "7"), ("d", "0")]
    assert pairs(data.test) == [("x", "9"), ("x", "9")]
    assert data.train["number"][:] == [1, 3, 6] and data.labels == ()
    assert data.warnings == (
        "task t: 1 training row(s) removed: a test row asks the same",
        "task t: 1 training row(s) removed: an earlier one is the same",
        "task t: 1 validation row(s) removed: a test row asks the same",
        "task t: 1 validation row(s) removed: an earlier one is the same",
        "task t: 1 training row(s) removed: a validation row asks the same",
    )


ROWS = [(f"q{i // 2}", f"a{i}") for i in range(40)]  # each question twice
TEST = [("t0", "x"), ("t1", "x"), ("t2", "x")]


def test_rows_that_ask_the_same_are_on_one_side(tmp_path: Path) -> None:
    data = prepared(tmp_path, ROWS, TEST)
    asked = {question for question, _ in pairs(data.validation)}
    assert len(data.validation) == 4 and len(data.train) == 36
    assert not asked & {question for question, _ in pairs(data.train)}


def test_the_split_is_the_seeds_and_not_the_files(tmp_path: Path) -> None:
    first, again, other = (
        {*pairs(prepared(tmp_path, rows, TEST, seed=seed).validation)}
        for rows, seed in ((ROWS, 0), (ROWS[::-1], 0), (ROWS, 1))
    )
    assert first == again != other


def test_limits(tmp_path: Path) -> None:
    few, more = (prepared(tmp_path, ROWS, TEST, max_train_rows=n, max_test_rows=2) for n in (5, 9))
    assert (len(few.train), len(more.train)) == (5, 9) and {*pairs(few.train)} < {*pairs(more.train)}
    assert pairs(few.test) == TEST[:2] and few.train["number"][:] == sorted(few.train["number"])
    limited = prepared(tmp_path, ROWS, TEST, [("v", str(i)) for i in range(9)], data=DataConfig(max_validation_rows=4))
    assert len(limited.validation) == 4


def test_equal_data_have_an_equal_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, copy = prepared(tmp_path, ROWS, TEST), prepared(tmp_path / "other", ROWS, TEST)
    changed = prepared(tmp_path, [*ROWS[:-1], ("q19", "a")], TEST)
    assert first.fingerprint == copy.fingerprint != changed.fingerprint and len(first.fingerprint) == 64


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([("t0", "y")], "no train rows are left of the 1 in train"),
        ([("a", "y")], "no train rows are left of the 1 in train"),
        ([("a", "y"), ("b", "")], "row 2: completion is empty; fill it, or remove the row"),
    ],
)
def test_what_leaves_nothing_is_an_error(tmp_path: Path, train: list[Pair], message: str) -> None:
    with pytest.raises(DataError, match="task t: ") as error:
        prepared(tmp_path, train, TEST)
    assert message in str(error.value)


def test_what_is_large_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(preparing, "CACHED_BYTES", 1)
    made = []
    make = preparing.make
    monkeypatch.setattr(preparing, "make", lambda *all_: (made.append(1), make(*all_)))
    first, second = prepared(tmp_path, ROWS, TEST), prepared(tmp_path, ROWS, TEST, metrics=["exact_match"])
    assert len(made) == 1 and pairs(first.train) == pairs(second.train) and first.fingerprint == second.fingerprint
    assert first.fingerprint != prepared(tmp_path, ROWS[2:], TEST).fingerprint and len(made) == 2
    monkeypatch.setattr(preparing, "CACHED_BYTES", 1 << 30)
    assert prepared(tmp_path, ROWS, TEST).fingerprint == first.fingerprint  # cached or not
    assert len([*(tmp_path / "state" / "data").iterdir()]) == 2


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(preparing, "CACHED_BYTES", 1)
    with pytest.raises(DataError, match=r"data cache .*ORTHOPLEX_STATE"):
        prepared(tmp_path, ROWS, TEST)


def test_without_test_rows_a_share_is_carved(tmp_path: Path) -> None:
    """Rows that ask the same stay on one side; neither the order nor the division into files matters, the seed does."""

    def carved(seed: int = 0, **more: Any) -> TaskData:
        given = {"name": "t", "source": "files", "format": "prompt_completion", **more}
        return prepare_task(TypeAdapter(AnyTask).validate_python(given), DataConfig(), None, seed)

    whole = write(tmp_path / "whole.jsonl", [*ROWS, ROWS[3]])
    found = carved(train=whole)
    assert len(found.test) == 4 and found.warnings[-1] == (
        "task t: no test rows are given: 4 of 40 training rows, drawn by the seed, are the test set; name files that "
        "hold it, or another test_share"
    )
    sides = [{asked for asked, _ in pairs(split)} for split in (found.train, found.validation, found.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 20
    files = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("x", ROWS[25:]), ("y", ROWS[:25]))]
    assert {*pairs(carved(train=files).test)} == {*pairs(found.test)} != {*pairs(carved(1, train=whole).test)}
    assert len(carved(train=whole, test_share=0.5).test) == 20 and len(carved(train=whole, max_test_rows=1).test) == 1
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(20)))
    assert len(carved(train=str(plain), format="text").test) == 2
