"""Decoders: answers continue the text. Their losses against the models' own: `test_text_to_text`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import ConfigError
from tests.support.families import WORDS, backbone
from tests.support.tiny_tokenizers import kinds, trained
from trainers.data.prompts import Prompt


@kinds
def test_labels_are_tokens_as_after_a_prompt(kind: Callable[[], Any]) -> None:
    """Prompt and answer put together are the tokens of the whole sentence, whatever marks the beginning of words."""
    words = ["yes", "certainly not", "5 stars", "Ärger"]
    fast = trained(kind, ["What is it?", *(f" {word}" for word in words)] * 3)
    bone = replace(backbone("llama"), tokenizer=fast)
    prompt, text = Prompt("", "\nAnswer:"), "What is it?"
    for word, answer in zip(words, bone.encode_labels(words), strict=True):
        assert bone.tokenize([text], prompt)[0] + answer[:-1] == fast(f"{text}\nAnswer: {word}")["input_ids"]
        assert answer[-1] == fast.eos_token_id


def test_answers_beyond_the_positions() -> None:
    with pytest.raises(ConfigError, match=r"model\.max_length: 125 .* and 5 .* 128 positions; use at most 123"):
        replace(backbone("gpt2"), max_length=125).encode_labels(WORDS)
    replace(backbone("gpt2"), max_length=123).encode_labels(WORDS)
