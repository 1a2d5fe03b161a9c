"""Data and kept answers in a report."""

from pathlib import Path
from typing import Any

from orchestrator.report.blocks import Grid
from orchestrator.report.rows import MOST_LABELS, answers, data, labels_of, row_sections
from orchestrator.report.source import Source
from tests.orchestrator.report.conftest import source_of
from tests.support.answering import done, generative


def test_data(fake_run: Any, tmp_path: Path) -> None:
    run = fake_run("a", "b")
    told = {"name": "b", "labels": ["x"], "fingerprint": "e" * 64, "rows": {"train": 4000, "validation": 0, "test": 9}}
    run.open(
        ["a", "b"], [{"name": "a"}, {**told, "warnings": ["2 training row(s) removed: an earlier one is the same"]}]
    )
    tasks, dropped = data(run.state)
    assert isinstance(tasks, Grid) and isinstance(dropped, Grid)
    assert tasks.rows[1] == ["b", "4,000", "0", "9", "x", "·", "e" * 64]
    assert dropped.rows == [["b", "2 training row(s) removed: an earlier one is the same"]]
    assert labels_of([f"l{n}" for n in range(14)]).endswith(f"l{MOST_LABELS - 1} and 2 more") and labels_of([]) == "·"


def test_answers_of_the_rows_that_changed_most(tmp_path: Path, no_ray: None) -> None:
    done(generative(tmp_path, "ab"))
    one, two = answers(source_of(tmp_path))
    assert isinstance(one, Grid) and isinstance(two, Grid)
    assert one.caption == "a: 3 of 3 test rows whose answers are kept, those that changed most first"
    first = [row for row in one.rows if row[0] == one.rows[0][0]]
    assert first == [
        ["2", "prompt", "a, row 1?", ""], ["2", "reference", "yes", ""], ["2", "reference", "no", ""],
        ["2", "(untrained)", "a1 after 0", "rouge_l 100.0, nll 2.00"],
        ["2", "after a", "a1 after 1", "rouge_l 70.0, nll 2.00"],
        ["2", "after b", "a1 after 2", "rouge_l 40.0, nll 2.00"],
    ]  # fmt: skip


def test_without_generative_tasks(three: Source) -> None:
    _, section = row_sections(three)
    assert section.blocks == [] and "evaluate.keep_answers" in section.nothing
