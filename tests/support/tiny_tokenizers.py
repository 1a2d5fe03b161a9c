"""Tokenizers of the two usual kinds, trained on a few lines."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made


def metaspace() -> Any:
    """As Llama 2 has it: spaces are ▁, one is put in front of every text, and words are not split before merging."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    made = Tokenizer(models.BPE(byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    return made


def trained(kind: Callable[[], Any], lines: Sequence[str], end: bool = False) -> Any:
    """A tokenizer of that kind with merges from the lines; with `end`, it ends every text as T5's does."""
    from tokenizers import pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = kind()
    trainer = trainers.BpeTrainer(
        vocab_size=800, min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if kind is byte_level else [],
        special_tokens=["<s>", "</s>", *([f"<0x{byte:02X}>" for byte in range(256)] if kind is metaspace else [])],
    )  # fmt: skip
    made.train_from_iterator(lines, trainer)
    if end:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


kinds = pytest.mark.parametrize("kind", [byte_level, metaspace])
