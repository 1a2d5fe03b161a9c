"""Screens as HTML: everything is there, and nothing of it is markup."""

from html.parser import HTMLParser

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.console.html import Page, table_html

NASTY = "<script>alert('&')</script> [bold]"


class Read(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def table(title: str | None = None) -> Table:
    made = Table("name", title=title and escape(title))
    made.add_column(escape(NASTY), justify="right")
    made.add_row(escape(NASTY), "  1.5 ±2")
    made.add_row(Text("plain"), "·")
    return made


def test_a_table() -> None:
    read = Read(table_html(table(NASTY)))
    assert read.tags == ["table", "caption", "thead", "tr", "th", "th", "tbody", *2 * ["tr", "td", "td"]]
    said = [each for each in read.text if each.strip()]
    assert said == [NASTY, "name", NASTY, NASTY, "1.5 ±2", "plain", "·"]
    assert '<td style="text-align: right">1.5 ±2</td>' in table_html(table())
    assert "caption" not in table_html(table())


def test_a_page_keeps_the_order() -> None:
    page = Page()
    page.write(f"before {NASTY}\n")
    page.table(table())
    page.write("after\n\n")
    read = Read(page.html)
    assert read.tags[0] == "pre" and read.tags[1] == "table" and read.tags[-1] == "pre"
    assert read.text[0] == f"before {NASTY}" and read.text[-1] == "after"
    assert page.html == page.html
