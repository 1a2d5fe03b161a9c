"""Rows as people see them."""

import pytest

from orchestrator.console import data as console


def test_long_rows_lose_their_middle() -> None:
    assert console.shortened("abcdefghij", 4) == "ab […6 characters…] ij" and console.shortened("abc", 4) == "abc"


@pytest.mark.parametrize(("terminal", "plain"), [(True, "ab"), (False, "a⟦b⟧")])
def test_trained_parts_are_marked(terminal: bool, plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "_force_terminal", terminal)
    text = console.marked([("a", False), ("b", True)])
    assert text.plain == plain and [span.style for span in text.spans] == ([console.TRAINED] if terminal else [])
