"""Pieces of an answer: together they are its text, whatever the tokenizer does to what came before."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.families import backbone
from tests.support.tiny_models import tokenizer
from tests.support.tiny_tokenizers import LINES, byte_level, trained
from trainers.config import DecodingConfig
from trainers.models.decoding import Pieces, UnheardError, until


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
    (spoken,) = base.speak([row], 12, (), DecodingConfig(**how), [Pieces(words, how.get("stop", ()), found.append)])
    assert spoken == alone and "".join(found) == alone.said.text != ""
    assert len(found) == 1 if how.get("beams") else len(found) > 1


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
def test_rows_of_a_batch_are_told_apart(family: str) -> None:
    """One ends early, one is not heard, one is left after its second piece: the others get their whole answers."""
    base = backbone(family)
    words, how = base.tokenizer, DecodingConfig(temperature=3, seed=5)
    rows = [words(text)["input_ids"] for text in ("what is it", "who", "when is that so", "why")]
    alone = base.speak(rows, 12, (), how)
    end = alone[0].tokens[4]  # ends answers in what follows
    whole = base.speak(rows, 12, [end], how)
    found: list[list[str]] = [[], [], [], []]

    def leaving(piece: str) -> None:
        found[2].append(piece)
        if len(found[2]) == 2:
            raise UnheardError

    told: list[Any] = [found[0].append, None, leaving, found[3].append]
    pieces = [None if each is None else Pieces(words, (), each) for each in told]
    spoken = base.speak(rows, 12, [end], how, pieces)
    for place in (0, 1, 3):
        assert spoken[place] == whole[place]
    assert "".join(found[0]) == whole[0].said.text and "".join(found[3]) == whole[3].said.text and found[1] == []
    assert len(found[2]) == 2 and whole[2].said.text.startswith("".join(found[2]))
    assert pieces[2] is not None and pieces[2].gone and len(spoken[2].tokens) <= len(whole[2].tokens)
