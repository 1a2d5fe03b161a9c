"""Nothing that is shown moves the cursor or rings the bell."""

import io

from rich.progress import Progress
from rich.table import Table

from orchestrator.console.harmless import plain_console

EVIL = "a\x1b[2Jb\x9bc\x07d\u202ee\rf"
SHOWN = r"a\x1b[2Jb\x9bcd\u202eef"  # rich itself drops two


def test_escapes_in_the_place_of_control_characters() -> None:
    console = plain_console(width=200)
    console.file = io.StringIO()
    table = Table()
    table.add_column("head")
    table.add_row(EVIL)
    console.print(EVIL, markup=False)
    console.print(table)
    console.print("[bold]two\nlines[/bold]")
    text = console.file.getvalue()
    assert text.count(SHOWN) == 2 and "two\nlines\n" in text
    assert not [c for c in text if not c.isprintable() and c != "\n"]


def test_what_is_printed_beside_bars() -> None:
    console = plain_console()
    console.file = io.StringIO()
    with Progress(console=console, disable=True) as bars:
        bars.console.print(EVIL, markup=False)
    assert console.file.getvalue() == f"{SHOWN}\n"
