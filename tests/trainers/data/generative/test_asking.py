"""Rows that lack their answer, in a plain form."""

import json
from typing import Any

import pytest

from trainers.data.generative.asking import SAYS, STAND_IN, asking, asking_text
from trainers.data.generative.rows import RowFault

ASK, TOLD = {"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}


@pytest.mark.parametrize(
    ("form", "columns", "raw", "expected"),
    [
        ("prompt_completion", {}, {"prompt": "p"}, {"prompt": "p", "completion": STAND_IN}),
        ("prompt_completion", {}, {"prompt": "p", "completion": None}, {"prompt": "p", "completion": STAND_IN}),
        ("prompt_completion", {}, {"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}),
        ("prompt_completion", {"prompt": "q", "completion": "a"}, {"q": "p"}, {"prompt": "p", "completion": STAND_IN}),
        ("prompt_completion", {}, {"prompt": [ASK]}, {"prompt": [ASK], "completion": [SAYS]}),
        ("prompt_completion", {}, {"prompt": json.dumps([ASK])}, {"prompt": [ASK], "completion": [SAYS]}),
        ("messages", {}, {"messages": [ASK]}, {"messages": [ASK, SAYS]}),
        ("messages", {}, {"messages": [ASK, TOLD]}, {"messages": [ASK, TOLD]}),
        ("messages", {}, {"messages": [ASK, TOLD, ASK]}, {"messages": [ASK, TOLD, ASK, SAYS]}),
        ("alpaca", {}, {"instruction": "why"}, {"messages": [ASK, SAYS]}),
        ("sharegpt", {}, {"conversations": [{"from": "human", "value": "why"}]}, {"messages": [ASK, SAYS]}),
    ],
)
def test_a_stand_in_has_the_answers_place(form: str, columns: dict[str, str], raw: Any, expected: Any) -> None:
    before = json.dumps(raw)
    assert asking(form, columns, raw) == expected and json.dumps(raw) == before


def test_a_text_alone() -> None:
    assert asking_text("prompt_completion", "p") == {"prompt": "p", "completion": STAND_IN}
    for form in ("messages", "alpaca", "sharegpt"):
        assert asking_text(form, "why") == {"messages": [ASK, SAYS]}


def test_what_asks_nothing() -> None:
    with pytest.raises(RowFault, match="plain text"):
        asking("text", {}, {"text": "x"})
    with pytest.raises(RowFault, match="plain text"):
        asking_text("text", "x")
    with pytest.raises(RowFault, match="no column 'prompt'"):
        asking("prompt_completion", {}, {"question": "x"})
    with pytest.raises(RowFault, match="is not a mapping"):
        asking("messages", {}, [1])
