"""Tables of screens as tables of a page."""

from rich.table import Table

from orchestrator.report.blocks import Grid, facts, grid_of, stripped


def test_a_table_of_a_screen() -> None:
    table = Table(title="[b]Title[/b]")
    table.add_column("task")
    table.add_column("score", justify="right")
    table.add_row("\\[red]", " 1.0")
    found = grid_of(table, folded=True)
    assert (found.caption, found.heads, found.rows) == ("Title", ["task", "score"], [["[red]", "1.0"]])
    assert found.folded and found.cells == [[("[red]", False), ("1.0", True)]]


def test_names_with_values_and_lines() -> None:
    assert facts("In all", [("a", "1")]) == Grid("In all", ("what", "value"), [["a", "1"]])
    assert stripped(["  BWT      -1.0", "x"]) == ["BWT -1.0", "x"]
