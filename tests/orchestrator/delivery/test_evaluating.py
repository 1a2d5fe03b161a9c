"""Scores of files: those of the run's own evaluation, and what is made of them."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from cluster.errors import DataError
from orchestrator.delivery.evaluating import evaluate_files
from orchestrator.delivery.predictor import Predictor
from orchestrator.track.state import RunState
from tests.support.untrained_runs import WORDS, labelled, write_csv, write_lines

Run = tuple[RunState, Path]


def test_scores_equal_the_matrix(labels: Predictor, texts: Predictor, labels_run: Run, texts_run: Run) -> None:
    """Of all tasks of both runs, labels and texts, with their intervals and every metric."""
    for predictor, (state, folder) in ((labels, labels_run), (texts, texts_run)):
        for index, task in enumerate(predictor.tasks):
            (path,) = folder.glob(f"{task}-test.*")
            made, score = evaluate_files(predictor, [path], task=task), state.commits[-1].test[index]
            assert made.rows == score.rows and made.interval == pytest.approx(score.bounds())
            if score.metrics:
                assert dict(made.metrics) == pytest.approx(score.metrics)
            else:
                assert made.metrics["accuracy"] * made.rows == pytest.approx(score.correct)
                assert made.macro_f1 == pytest.approx(score.macro_f1)


def test_shares_of_each_label_and_the_confusion_matrix(labels: Predictor, labels_run: Run) -> None:
    """As scikit-learn has them."""
    path = labels_run[1] / "a-test.csv"
    made = evaluate_files(labels, [path], task="a", worst=100)
    rows = list(csv.DictReader(path.open()))
    found = [each.label for each in labels.classify([row["text"] for row in rows], task="a")]
    right = [row["label"] for row in rows]
    words = list(made.labels)
    assert sorted(words) == sorted(WORDS[0])
    assert np.array_equal(np.array(made.confusion)[:, :-1], confusion_matrix(right, found, labels=words))
    shares = precision_recall_fscore_support(right, found, labels=words, zero_division=0)
    for index, word in enumerate(words):
        share = made.classes[word]
        assert [share.precision, share.recall, share.f1, share.rows] == pytest.approx([each[index] for each in shares])
    assert made.macro_f1 == pytest.approx(sum(shares[2]) / len(words))
    assert made.floor == {"own majority": max(map(right.count, words)) / len(right)}
    wrong = [place for place, each in enumerate(found) if each != right[place]]
    assert {each.row - 1 for each in made.worst} == {*wrong} and [each.value for each in made.worst] == sorted(
        each.value for each in made.worst
    )
    assert all(rows[each.row - 1]["text"] == each.asked and each.answer != each.right for each in made.worst)


def test_the_union_takes_labels_of_any_task(labels: Predictor, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "both.csv", [*labelled(WORDS[0], 4, "x"), *labelled(WORDS[1], 4, "y")])
    made = evaluate_files(labels, [path], union=True)
    assert made.rows == 8 and len(made.labels) == 6 and made.task == "all tasks"


def test_columns_of_other_names_and_rows_without_text(labels: Predictor, tmp_path: Path) -> None:
    rows = [
        {"body": row["text"] if i else "", "kind": row["label"]} for i, row in enumerate(labelled(WORDS[0], 5, "x"))
    ]
    path = write_csv(tmp_path / "others.csv", rows)
    made = evaluate_files(labels, [path, path], task="a", columns={"text": "body", "label": "kind"})
    assert made.rows == 8 and "without text" in made.notes[0]
    with pytest.raises(DataError, match="no column 'text', only body, kind; name yours: --columns text=COLUMN"):
        evaluate_files(labels, [path], task="a")
    other = write_csv(tmp_path / "c.csv", [{"text": "x", "label": "gren"}])
    with pytest.raises(DataError, match=r"row 1: label 'gren' is none of the labels .*did you mean 'green'"):
        evaluate_files(labels, [other], task="a")


def test_texts_have_a_copy_floor_and_the_worst_rows(texts: Predictor, tmp_path: Path) -> None:
    rows = [
        {"prompt": "sample 1 ", "completion": "sample 1"},
        {"prompt": "b ", "completion": "other", "references": ["b"]},
    ]
    path = write_lines(tmp_path / "copy.jsonl", rows)
    made = evaluate_files(texts, [path], task="qa", worst=1)
    assert made.floor == {"copy": 1.0} and list(made.metrics) == ["token_f1", "nll"]
    (worst,) = made.worst
    assert worst.value <= made.metrics["token_f1"] and worst.answer is not None and math.isfinite(made.metrics["nll"])
    renamed = write_lines(
        tmp_path / "renamed.jsonl", [{"q": row["prompt"], "completion": row["completion"]} for row in rows]
    )
    again = evaluate_files(texts, [renamed], task="qa", columns={"prompt": "q"})
    assert again.rows == 2
    with pytest.raises(DataError, match=r"row 1: .*no column 'prompt'"):
        evaluate_files(texts, [renamed], task="qa")
