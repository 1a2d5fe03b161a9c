"""Screens as HTML, for notebooks: lines as they are, tables as tables. Everything is escaped."""

from html import escape
from io import StringIO

from rich.table import Table
from rich.text import Text


class Page(StringIO):
    """A stream that takes what a screen prints, and its tables whole, see `console.screen.print_table`."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []

    def table(self, table: Table) -> None:
        """Takes a table, after what was printed so far."""
        self._take_lines()
        self._parts.append(table_html(table))

    @property
    def html(self) -> str:
        """All of it."""
        self._take_lines()
        return "\n".join(self._parts)

    def _take_lines(self) -> None:
        if text := self.getvalue().strip("\n"):
            self._parts.append(f"<pre>{escape(text)}</pre>")
        self.seek(0)
        self.truncate()


def table_html(table: Table) -> str:
    """A table with its title as caption."""
    sides = [column.justify for column in table.columns]
    heads = [cell("th", column.header, column.justify) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = ["".join(cell("td", *each) for each in zip(row, sides, strict=True)) for row in rows]
    caption = f"<caption>{escape(plain(table.title))}</caption>" if table.title else ""
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>{caption}\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def cell(tag: str, content: object, side: str) -> str:
    """A cell; numbers stand on the right."""
    align = "right" if side == "right" else "left"
    return f'<{tag} style="text-align: {align}">{escape(plain(content).strip())}</{tag}>'


def plain(content: object) -> str:
    """What a cell of rich says, without its markup."""
    return content.plain if isinstance(content, Text) else Text.from_markup(str(content)).plain
