"""Texts and prompts as tokens: what is cut, and what is kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import ConfigError
from tests.support.families import ANSWER, TEXTS, backbone, minilm
from tests.support.tiny_tokenizers import kinds, trained
from trainers.data.prompts import Prompt


@pytest.mark.parametrize("max_length", range(9, 30, 3))
def test_truncation_keeps_the_prompt(max_length: int) -> None:
    """Long texts lose their end, nothing else, and no more than must go."""
    bone = replace(backbone("llama"), max_length=max_length)
    before, after = (bone.tokenizer(part)["input_ids"] for part in (ANSWER.before, ANSWER.after))
    for text, ids in zip(TEXTS, bone.tokenize(TEXTS, ANSWER), strict=True):
        middle = bone.tokenizer(text)["input_ids"]
        assert ids == before + middle[: max_length - len(before) - len(after)] + after


def test_truncation_keeps_special_tokens() -> None:
    bone = minilm()
    cls, sep = bone.tokenizer.cls_token_id, bone.tokenizer.sep_token_id
    long = bone.tokenize(["word " * 40], ANSWER)[0]
    assert len(long) == 16 and (long[0], long[-1]) == (cls, sep)
    assert bone.tokenizer.decode(long, skip_special_tokens=True).endswith("word. answer :")


def test_prompt_without_room_for_a_text() -> None:
    with pytest.raises(ConfigError, match=r"model\.max_length: 7 tokens .* prompt alone takes 8; raise it"):
        replace(backbone("llama"), max_length=7).tokenize(["x"], Prompt("a b c d e f g h", ""))


def test_without_a_prompt_tokens_are_the_tokenizers() -> None:
    bone = minilm()
    expected = bone.tokenizer(TEXTS, truncation=True, max_length=16)["input_ids"]
    assert bone.tokenize(TEXTS) == bone.tokenize(TEXTS, Prompt("", "")) == expected


def test_a_text_is_never_without_tokens() -> None:
    bone = backbone("gpt2")
    for prompt in (Prompt(), Prompt("\n", " ")):
        assert bone.tokenize(["\x00", "word"], prompt)[0] == [bone.tokenizer.eos_token_id]


@kinds
@pytest.mark.parametrize("end", [False, True])
def test_texts_are_cut_as_late_as_they_can_be(kind: Callable[[], Any], end: bool) -> None:
    """Whatever characters are made of: the tokens are those of before + a head of the text + after, and with one more
    token of the text they would be too many."""
    words = trained(kind, ["What is it?\nAnswer: yes", "a lovely film 🙂 and so on\nreally"] * 3, end)
    asked, joined = Prompt("What is it?\n", "\nAnswer:"), Prompt("What is it?\n", " on\nreally")
    for prompt, text in (
        (asked, "a lovely film 🙂👩‍👩‍👧 and 🎉🎉 so\n\n{labels} 日本 🏴‍☠️ zz"),
        (asked, "🎉🎉🎉🎉"),
        (asked, "\n\n 🙂"),
        (asked, "  lovely   film  " * 3),
        (joined, " o filreal so fil o\n\n"),  # whose end takes more tokens beside the prompt's than alone
    ):
        spans = words(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        heads = [words(prompt.before + text[:cut] + prompt.after)["input_ids"] for cut in (0, *(e for _, e in spans))]
        for max_length in range(len(heads[0]) + 1, len(heads[-1]) + 2):
            found = replace(backbone("t5"), tokenizer=words, max_length=max_length).tokenize([text], prompt)[0]
            assert len(found) <= max_length and found in heads
            last = max(index for index, head in enumerate(heads) if head == found)
            assert last + 1 == len(heads) or len(heads[last + 1]) > max_length, (text, max_length)
