"""The head of a run's report."""

from typing import Any

from orchestrator.report.blocks import Tile
from orchestrator.report.run import PARTS, run_page, tiles
from orchestrator.report.source import Source


def test_the_head(three: Source) -> None:
    three.faults.append("default/stream@v1: is damaged")
    page = run_page(three)
    assert "default/stream@v1: is damaged" in page.notes
    assert (page.title, page.status) == ("default/stream", "finished")
    assert page.lines[0] == "3 of 3 tasks are learned." and "method oa" in page.lines[1]
    shown = {tile.title: (tile.value, tile.beside) for tile in page.tiles}
    half = three.state.half_widths("test")["aa"]
    assert half and shown["AA (average accuracy, macro)"] == ("45.0", f"±{100 * half:.1f} points")
    assert shown["tasks learned"] == ("3", "of 3") and shown["training"] == ("4 s", "and 2 s of evaluation")
    names = [section.name for section in page.sections]
    assert len(names) == len({*names}) and len(PARTS) == 6
    assert names == [
        "matrix", "stream", "forgetting", "budget", "occupancy", "angles", "curves", "cost", "trend", "data",
        "answers", "guards", "decisions", "modules", "changes", "lineage", "environment", "configuration", "log",
    ]  # fmt: skip


def test_before_the_first_task(fake_run: Any) -> None:
    assert [*tiles(fake_run("a").state)] == [Tile("tasks learned", "0", "of 1")]
