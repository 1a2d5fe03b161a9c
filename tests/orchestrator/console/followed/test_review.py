"""A period's page in three forms; what others wrote stays text in each."""

from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.console import screen
from orchestrator.console.followed import review
from orchestrator.console.followed.review import cost_rows, html, markdown, sections, summary
from orchestrator.followed.review import CostThen, MovedThen, Review

EVIL = '<script>alert(1)</script> | **x** \x1b[2J "q"'


def page(why: str = "", cost: tuple[CostThen, ...] = ()) -> Review:
    moved = MovedThen(
        track="a/b", alias="production", kind="rollback", before=2, version=1, time="2026-11-28T10:11:12+00:00",
        actor="me@here", why=why, held=[],
    )  # fmt: skip
    return Review(
        scope="all", since="2026-11-01T00:00+00:00", until="2026-12-01T00:00+00:00", tracks=1, learned=[],
        moved=[moved], said=[], changed=[], thresholds=[], ended=[], scored=[], cost=cost,
    )  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_whole_and_runs_nothing_of_others() -> None:
    found = Tags()
    found.feed(html(page(EVIL)))
    assert found.open == [] and "script" not in found.seen and "img" not in found.seen
    assert "<script>alert(1)</script> | **x**" in found.text and "\x1b" not in found.text
    assert found.seen.count("table") == 1 and found.seen.count("h2") == 8


def test_markdown_keeps_its_columns() -> None:
    told = markdown(page(EVIL))
    (row,) = [line for line in told.splitlines() if "a/b@production" in line]
    assert row.replace("\\|", "").count("|") == 8 and "<script>" not in told and "\\*\\*x" in row
    assert "## Cost\n\nNothing was trained." in told


def test_what_the_page_says() -> None:
    made = page()
    (moved,) = [part for part in sections(made) if part.rows]
    assert moved.rows == [
        (
            "a/b@production",
            "v2",
            "v1 (rollback)",
            "2026-11-28 10:11",
            "me@here",
            "(no reason given)",
            "a rollback is judged by none",
        )
    ]
    assert summary(made).startswith("0 tasks learned, 1 move of aliases, 0 changes")


def test_money_is_summed_by_currency() -> None:
    def cost(track: str, money: float | None, currency: str | None) -> CostThen:
        return CostThen(
            track=track, tasks=1, train_s=1800, evaluate_s=200, gpu_hours=1.5, money=money, currency=currency
        )

    rows = [
        *cost_rows(
            page(cost=(cost("a", 1.0, "EUR"), cost("b", 2.0, "USD"), cost("c", 0.5, "EUR"), cost("d", None, None)))
        )
    ]
    assert rows[-1] == ("all", "4", "7,200", "800", "6.00", "1.50 EUR, 2.00 USD") and rows[3][-1] == "·"
    assert len([*cost_rows(page(cost=(cost("a", 1.0, "EUR"),)))]) == 1


def test_a_part_that_is_wider_than_the_terminal_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = Console(file=StringIO(), width=80, force_terminal=True, color_system=None)
    for module in (review, screen):
        monkeypatch.setattr(module, "out", narrow)
    review.print_review(page("because it was better on the rows of last week " * 3))
    lines = narrow.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80 and "  a/b@production" in lines
    assert any(line.startswith("    from v2; to v1 (rollback); when (UTC) 2026-11-28 10:11;") for line in lines)
