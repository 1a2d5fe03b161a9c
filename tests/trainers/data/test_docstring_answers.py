"""Built-in generative tasks: the same rows for the same seed, no function in training and test."""

import re
from collections import Counter

import pytest

from trainers.data.docstring_answers import MAKERS, MAX_ROWS, MAX_SAME, AnswerTask, answer_rows


@pytest.mark.slow
@pytest.mark.parametrize("task", MAKERS)
def test_rows_are_many_distinct_and_the_same_for_a_seed(task: AnswerTask) -> None:
    train, test = answer_rows(task, 0)
    rows = [*train, *test]
    assert 400 <= len(rows) <= MAX_ROWS and 0.15 < len(test) / len(rows) < 0.3
    assert len({re.sub(r"[^a-z]+", " ", row["prompt"].lower()).strip() for row in rows}) == len(rows)
    assert max(Counter(row["completion"] for row in rows).values()) <= MAX_SAME
    assert (train, test) == answer_rows(task, 0)
    assert test != answer_rows(task, 1)[1]
    for row in rows:
        assert row["completion"].startswith(" ") and row["completion"].strip()
        assert not row["prompt"].endswith(" ")


@pytest.mark.slow
def test_what_each_task_asks() -> None:
    for row in answer_rows("example", 0)[0]:
        assert row["prompt"].startswith("def ") and row["prompt"].endswith("\n>>>")
        assert f"{row['prompt'][4:].partition('(')[0]}(" in row["completion"] and "doctest" not in row["completion"]
    for row in answer_rows("arguments", 0)[0]:
        assert all(name in row["prompt"] for name in row["completion"].strip().split(", "))
    for row in answer_rows("signature", 0)[0]:
        name, *lines, _ = row["prompt"].split("\n")
        documented = [line.partition(" : ")[0] for line in lines]
        assert row["completion"] == f" {name.partition(':')[0]}({', '.join(documented)})"
    for row in answer_rows("default", 0)[0]:
        assert "default" in row["prompt"].split("\n")[0] and row["completion"].strip() in row["prompt"].split("\n")[0]


@pytest.mark.parametrize("task", ["example", "arguments", "signature"])
def test_no_function_is_in_training_and_test(task: AnswerTask) -> None:
    train, test = (
        {re.split(r"[(:]", row["prompt"].removeprefix("def "))[0] for row in part} for part in answer_rows(task, 0)
    )
    assert not train & test
