"""Pieces of an answer: together they are its text, whatever the tokenizer does to what came before."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.families import backbone
from tests.support.tiny_models import tokenizer
from tests.support.tiny_tokenizers import LINES, byte_level, trained
from trainers.config import DecodingConfig
from trainers.models.decoding import Pieces, until


def told(words: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    """The pieces of an answer of these tokens, one after the other."""
    found: list[str] = []
    pieces = Pieces(words, stop, found.append)
    for count in range(1, len(ids) + 1):
        pieces.so_far(ids[:count])
    pieces.whole(until(words.decode(ids, skip_special_tokens=True), stop))
    return found


def test_half_characters_wait_for_their_other_half() -> None:
    words, text = trained(byte_level, LINES), "ein Bär 🐻 läuft, naïve"
    ids = words(text, add_special_tokens=False)["input_ids"]
    found = told(words, ids)
    assert "".join(found) == words.decode(ids) and "🐻" in "".join(found)
    assert len(found) > 5 and not any("\ufffd" in piece for piece in found)


def test_the_beginning_of_a_stop_string_waits() -> None:
    words = trained(byte_level, LINES)
    ids = words("abc STO x STOP y", add_special_tokens=False)["input_ids"]
    found = told(words, ids, ["STOP", "zz"])
    assert "".join(found) == "abc STO x " and not any(piece.endswith(("S", "ST", "STO")) for piece in found)
    assert "".join(told(words, words("ab z")["input_ids"], ["zz"])) == "ab z"  # what waited to the end is told then


def test_a_tokenizer_that_takes_spaces_out_is_told_word_by_word() -> None:
    """WordPiece writes `do n't` until it sees what follows."""
    words = tokenizer()
    words.clean_up_tokenization_spaces = True
    ids = words("i do n't know . well , so it is", add_special_tokens=False)["input_ids"]
    found = told(words, ids)
    assert "".join(found) == words.decode(ids) == "i don't know. well, so it is" and len(found) > 4


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("how", [{}, {"temperature": 1.5, "seed": 2, "stop": ["qq"]}, {"beams": 2}], ids=str)
def test_what_is_told_is_what_is_said(family: str, how: dict[str, Any]) -> None:
    base = backbone(family)
    words = base.tokenizer
    row, found = words("what is it")["input_ids"], list[str]()
    (alone,) = base.speak([row], 12, (), DecodingConfig(**how))
    (spoken,) = base.speak([row], 12, (), DecodingConfig(**how), Pieces(words, how.get("stop", ()), found.append))
    assert spoken == alone and "".join(found) == alone.said.text != ""
    assert len(found) == 1 if how.get("beams") else len(found) > 1
