"""Rows with right labels: of one task, and each as the task that it fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cluster.errors import DataError
from orchestrator.delivery.labelled_rows import labelled_rows
from orchestrator.delivery.repertoire import Known
from orchestrator.track.events import RowCounts, TaskDescription
from tests.support.untrained_runs import write_csv, write_lines
from trainers.data.generative.config import AnyTask


def known(name: str, words: Sequence[str], index: int = 0, **entry: Any) -> Known:
    given = {"name": name, "source": "files", "train": "t.csv", "test": "u.csv", **entry}
    description = TaskDescription(
        name=name, labels=tuple(words), fingerprint="f", rows=RowCounts(train=1, validation=1, test=1)
    )
    return Known(index=index, task=TypeAdapter(AnyTask).validate_python(given), description=description)


def words_of(asked: Sequence[Known], paths: Sequence[Path]) -> list[tuple[str, str]]:
    words = [*dict.fromkeys(word for each in asked for word in each.description.labels)]
    rows = labelled_rows(asked, paths, {}, words)
    return [(text, words[right]) for text, right in zip(rows.texts, rows.right, strict=True)]


COLOURS = known("colours", ["red", "green"])
HEAT = known("heat", ["cold", "hot"], text_column="body", label_column="queue")


def test_each_row_has_the_columns_of_its_task(tmp_path: Path) -> None:
    """In files of their own, and line by line in one."""
    first = write_csv(tmp_path / "a.csv", [{"text": "x", "label": "green"}])
    second = write_csv(tmp_path / "b.csv", [{"body": "y", "queue": "cold"}])
    both = write_lines(tmp_path / "both.jsonl", [{"body": "v", "queue": "hot"}, {"text": "w", "label": "red"}])
    expected = [("x", "green"), ("y", "cold"), ("v", "hot"), ("w", "red")]
    assert words_of([COLOURS, HEAT], [first, second, both]) == expected
    other = write_csv(tmp_path / "c.csv", [{"body": "y", "kind": "cold"}])
    with pytest.raises(DataError, match=r"c.csv' has no column 'queue', only body, kind; name yours: --columns label="):
        words_of([COLOURS, HEAT], [other])


def test_numbers_are_those_of_the_task_that_the_row_fits(tmp_path: Path) -> None:
    colours = known("colours", ["red", "green"], labels=["red", "green"])
    heat = known("heat", ["cold", "hot"], labels=["cold", "hot"], label_column="queue")
    path = write_lines(tmp_path / "n.jsonl", [{"text": "x", "queue": 1}, {"text": "y", "label": 1}])
    assert words_of([colours, heat], [path]) == [("x", "hot"), ("y", "green")]
    alike = known("heat", ["cold", "hot"], labels=["cold", "hot"])
    path = write_lines(tmp_path / "m.jsonl", [{"text": "w", "label": "red"}, {"text": "y", "label": 1}])
    with pytest.raises(DataError, match=r"row 2: label 1 may be 'green' of colours, 'hot' of heat; write the word"):
        words_of([colours, alike], [path])


def test_classes_leave_out_other_labels_of_their_own_task_alone(tmp_path: Path) -> None:
    rows = [{"text": str(i), "label": label} for i, label in enumerate("abcd")]
    path = write_csv(tmp_path / "all.csv", rows)
    first, second = known("first", "ab", classes=["a", "b"]), known("second", "cd", classes=["c", "d"])
    assert words_of([first, second], [path]) == [("0", "a"), ("1", "b"), ("2", "c"), ("3", "d")]
    assert words_of([second], [path]) == [("2", "c"), ("3", "d")]
    strict = write_csv(tmp_path / "strict.csv", [{"body": "y", "queue": "mild"}])
    with pytest.raises(DataError, match=r"row 1: label 'mild' is none of the labels .*; correct the row, or leave it"):
        words_of([first, HEAT], [strict])


def test_an_unknown_label_says_what_to_do(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": "gren"}])
    with pytest.raises(DataError) as caught:
        words_of([COLOURS], [path])
    assert str(caught.value) == (
        f"task colours: '{path}' row 1: label 'gren' is none of the labels ['red', 'green']; correct the row, or leave "
        "it out: a version is scored on the labels that it was trained on; did you mean 'green'?"
    )
