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
    assert found.folded and found.cells == [[("[red]", ""), ("1.0", "number")]]


def test_names_with_values_and_lines() -> None:
    assert facts("In all", [("a", "1")]) == Grid("In all", ("what", "value"), [["a", "1"]])
    assert stripped(["  BWT      -1.0", "x"]) == ["BWT -1.0", "x"]


def test_long_words_may_be_broken() -> None:
    made = Grid("c", ("a", "b"), [["f" * 64, "1 " * 40]], frozenset({1}))
    assert made.cells == [[("f" * 64, "long"), ("1 " * 40, "number")]]
