"""Built-in generative tasks: the same rows for the same seed, no test answer among the training rows."""

import pytest

from trainers.data.docstring_answers import LONGEST, MAKERS, MAX_ROWS, SHORTEST, answer_rows


@pytest.mark.parametrize("task", MAKERS)
def test_rows_are_many_distinct_and_the_same_for_a_seed(task: str) -> None:
    train, test = answer_rows(task, 0)  # type: ignore[arg-type]
    assert 400 <= len(train) + len(test) <= MAX_ROWS and 0.15 < len(test) / (len(train) + len(test)) < 0.3
    prompts = [row["prompt"] for row in (*train, *test)]
    assert len({*prompts}) == len(prompts)
    assert (train, test) == answer_rows(task, 0)  # type: ignore[arg-type]
    assert test != answer_rows(task, 1)[1]  # type: ignore[arg-type]
    for row in (*train, *test):
        assert row["completion"].startswith(" ") and row["completion"].strip()
        assert not row["prompt"].endswith(" ")
        assert task == "name" or SHORTEST <= len(row["completion"].strip()) <= LONGEST
    if task != "name":
        assert not {row["completion"] for row in train} & {row["completion"] for row in test}


def test_what_each_task_asks() -> None:
    by_task = {task: answer_rows(task, 0)[0] for task in MAKERS}  # type: ignore[arg-type]
    assert all(row["prompt"].startswith("def ") and row["prompt"].endswith("\nSummary:") for row in by_task["describe"])
    assert all(row["completion"].strip().isidentifier() for row in by_task["name"])
    assert all(row["prompt"].endswith("\nMeaning:") for row in by_task["parameter"])
    assert all(row["prompt"].endswith("\nReturns:") for row in by_task["returns"])
    known = sum("(...)" not in row["prompt"] for row in by_task["describe"])
    assert known > 0.5 * len(by_task["describe"]), "most signatures are known"
