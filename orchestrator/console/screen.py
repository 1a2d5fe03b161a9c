"""Where screens go, and tables on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.measure import Measurement
from rich.table import Table

from orchestrator.console.harmless import plain_console
from orchestrator.console.html import Page

WIDE = 120  # columns, if there is no terminal
out = plain_console()


@contextmanager
def screens_on(stream: TextIO) -> Iterator[None]:
    """Everything that `out` prints within goes to `stream`, whatever standard output becomes."""
    before = out._file
    out.file = stream
    try:
        yield
    finally:
        out._file = before  # None: standard output as it is when something is printed


def print_table(table: Table) -> None:
    """Prints a table in its full width. A narrow terminal wraps it, and nothing is cut off."""
    if isinstance(out.file, Page):
        out.file.table(table)
        return
    plain_console(max(width_of(table), out.width)).print(table)


def width_of(table: Table) -> int:
    """The columns of a terminal that a table needs."""
    return Measurement.get(out, out.options.update(max_width=100_000), table).maximum


def fits(table: Table) -> bool:
    """Whether a terminal shows a table without wrapping it; without one, whether it is no wider than WIDE."""
    return width_of(table) <= (out.width if out.is_terminal else max(out.width, WIDE))
