"""Recorded scores on a screen: what others wrote into a log cannot move the cursor."""

from orchestrator.console.followed.trend import change_shown, lines_of, table_of
from orchestrator.followed.drift import Change
from orchestrator.followed.records import Record
from orchestrator.followed.trend import Compared, Point, Series
from tests.support.entries import entry

RECORD = Record(
    reference="a/b@v1", version=1, manifest_sha256="m", task="x\x1b[2J", metric="accuracy", metrics={"accuracy": 0.5},
    interval=(0.4, 0.6), rows=10, rows_sha256="r", files={}, prefix="p", scores_sha256="s", asked="[red]\x1b[2J",
)  # fmt: skip


def compared(difference: float, p: float, changed: int | None) -> Compared:
    change = Change(difference=difference, p=p, test="a test", changed=changed)
    return Compared(seq=1, change=change, verdict=change.verdict(0.05))


def series_with(*points: Point, metric: str = "accuracy") -> Series:
    return Series(task=RECORD.task, metric=metric, settings="", points=points, level=0.05)


def test_changes_say_whether_the_rows_are_the_same() -> None:
    assert change_shown(None) == "·"
    assert change_shown(compared(-0.125, 0.0004, 3)) == "-12.5 p<0.001"
    assert change_shown(compared(0.01, 0.4, None)) == "~+1.0 p=0.400"


def test_nothing_of_a_log_moves_the_cursor() -> None:
    table = table_of(series_with(Point(entry=entry("record", {}), record=RECORD, first=None, before=None)))
    cells = [str(cell) for column in table.columns for cell in column.cells]
    assert "\x1b" not in str(table.title) + "".join(cells) and "50.0" in cells and "40.0 to 60.0" in cells


def test_what_the_lines_say() -> None:
    made = entry("record", {})
    worse = Point(entry=made, record=RECORD, first=compared(-0.2, 0.001, None), before=compared(0.0, 1.0, 0))
    told = "\n".join(lines_of(series_with(worse)))
    assert "2 comparisons tested at level 0.05 (a test); by chance 0.1 would" in told
    assert "other rows were scored then" in told and "drift: a/b@v1 is worse than noise explains (entry 7)" in told
