"""Scores in a report are those that `status` prints."""

from pathlib import Path

from orchestrator.console.scores import ACCURACIES, scores
from orchestrator.report.blocks import Picture, Section, Words, grid_of, stripped
from orchestrator.report.learned import course, forgetting, kinds_of, learned_sections, shown_as
from orchestrator.report.source import Source
from tests.orchestrator.report.conftest import source_of


def only(section: Section, kind: type) -> list:
    return [block for block in section.blocks if isinstance(block, kind)]


def test_the_matrix_is_that_of_status(three: Source) -> None:
    matrix, stream, since = learned_sections(three)
    ((table, lines),) = scores(three.state)
    (picture,), (words,) = only(matrix, Picture), only(matrix, Words)
    assert picture.table == grid_of(table, folded=True) and words.lines == stripped(lines)
    half = three.state.halves("test")[0][0]
    assert "40.0</text>" in picture.svg and half is not None and f"±{100 * half:.1f}" in picture.svg
    assert (matrix.name, stream.name, since.name) == ("matrix", "stream", "forgetting")


def test_metrics_after_each_task(three: Source) -> None:
    (picture,) = course(three.state)
    assert isinstance(picture, Picture) and picture.table
    assert [row[0] for row in picture.table.rows] == ["a", "b", "c"]
    first, *_, last = (moment.metrics("test") for moment in map(three.state.upto, (1, 2, 3)))
    assert picture.table.heads[1] == ACCURACIES.metrics["aa"]
    half = three.state.half_widths("test")["aa"]
    assert first["bwt"] is None and picture.table.rows[0][2] == "·"
    assert picture.table.rows[2][1] == f"{100 * last['aa']:.1f} ±{100 * half:.1f}"


def test_what_became_of_each_task(three: Source) -> None:
    (picture,) = forgetting(three.state)
    assert isinstance(picture, Picture) and picture.table
    assert picture.table.rows[0] == ["a", "40.0", "40.0", "+0.0"] and len(picture.table.rows) == 3


def test_before_the_first_task(fake_run: object, tmp_path: Path) -> None:
    fake_run("a")  # type: ignore[operator]
    for section in learned_sections(source_of(tmp_path / "store")):
        assert section.blocks == [] and "No task is committed yet" in section.nothing


def test_kinds(three: Source) -> None:
    assert kinds_of(three.state) == [(ACCURACIES, [0, 1, 2])]
    assert shown_as(ACCURACIES, 0.25) == 25 and shown_as(ACCURACIES, None) is None
