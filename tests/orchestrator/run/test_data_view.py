"""Figures of a split, texts in two places, and which tokens are shown as trained."""

import json

import numpy as np

from orchestrator.run.data_view import Overlap, SplitView, overlaps, pieces, split_view
from tests.support.texts import bytes_tokenizer
from trainers.data.examples import RenderSettings, SourceRow, render


def test_figures() -> None:
    view = split_view(np.array([1, 2, 3, 100]), 50, 5, 1, 2)
    assert view == SplitView(4, 50, 3, 100, 100, 0.25, 0.1, 2)


def test_what_is_in_two_places() -> None:
    asked = {"a": [b"1", b"1", b"2"], "b": [b"1"], "c": [b"3"]}
    assert [*overlaps(asked)] == [Overlap("a", "b", 2)]


def test_neighbouring_tokens_are_one_piece() -> None:
    tokenizer = bytes_tokenizer()
    row = SourceRow("a", 1, json.dumps({"prompt": "ab", "completion": "c"}))
    both = bytes_tokenizer(ends=True)
    assert [*pieces(render(row, tokenizer, RenderSettings("t", "completion", 9)), tokenizer)] == [
        ("ab", False), ("c</s>", True),
    ]  # fmt: skip
    answered = render(row, both, RenderSettings("t", "completion", 9, encoder_decoder=True))
    assert [*pieces(answered, both)] == [("ab</s>", False), ("c</s>", True)]
