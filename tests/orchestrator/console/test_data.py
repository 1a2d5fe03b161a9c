"""Rows as people see them."""

import pytest

from orchestrator.console import data as console
from orchestrator.run.data_view import SplitView


def test_long_rows_lose_their_middle() -> None:
    assert console.shortened("abcdefghij", 4) == "ab […6 characters…] ij" and console.shortened("abc", 4) == "abc"


@pytest.mark.parametrize(("terminal", "plain"), [(True, "ab"), (False, "a⟦b⟧")])
def test_trained_parts_are_marked(terminal: bool, plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "_force_terminal", terminal)
    text = console.marked([("a", False), ("b", True)])
    assert text.plain == plain and [span.style for span in text.spans] == ([console.TRAINED] if terminal else [])


def test_what_max_length_takes_is_told() -> None:
    assert [*console.losses(SplitView(64, 1, 1, 1, 900, 0.203125, 0.1, 2, 63), 256)] == [
        "2 rows left out, whose prompts are too long for max_length 256",
        "prompts shortened, which lose their middle: 63 of 64",
        "rows cut, which lose their end: 13 of 64",
    ]
    assert [*console.losses(SplitView(64, 1, 1, 1, 1, 0, 0.1), 256)] == []
