"""Tokenizers of the two usual kinds, trained on a few lines."""

from collections.abc import Callable, Sequence
from functools import cache
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


LINES = [
    "the film was good",
    "Review: a bad film\nAnswer: positive",
    "Answer: negative",
    "yes no maybe",
    " very 5 stars",
] * 20
KINDS = (
    "byte-level", "byte-level, prefixed", "byte-level, unsplit", "byte-level, newer", "metaspace always",
    "metaspace first", "metaspace never", "metaspace unsplit", "unigram", "wordpiece", "byt5",
)  # fmt: skip


NEWER = (  # how Llama 3 and Qwen split texts
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def real(kind: str, ending: str = "") -> Any:
    """A tokenizer of one of KINDS. `ending` says what it adds to every text: `bos`, `eos`, or both with a space."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

    if kind == "byt5":
        return ByT5Tokenizer()
    how, _, variant = kind.partition(" ")
    common = {"special_tokens": ["<s>", "</s>", "<unk>", "<pad>"], "show_progress": False}
    if how.startswith("byte-level"):
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(variant == "prefixed", use_regex=variant != "unsplit")
        made.decoder = decoders.ByteLevel()
        if variant == "newer":
            lines = pre_tokenizers.Split(Regex(NEWER), "isolated")
            made.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(False, use_regex=False)])
        trainer: Any = trainers.BpeTrainer(
            vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common
        )
    elif how == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder, trainer = decoders.WordPiece(), trainers.WordPieceTrainer(vocab_size=200, **common)
    else:
        made = Tokenizer(models.Unigram() if how == "unigram" else models.BPE(unk_token="<unk>"))
        scheme = "always" if variant in ("", "unsplit") else variant
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
        trainer = (
            trainers.UnigramTrainer(vocab_size=90, unk_token="<unk>", **common)
            if how == "unigram"
            else trainers.BpeTrainer(vocab_size=200, **common)
        )
    made.train_from_iterator(LINES, trainer)
    if variant == "unsplit" and how == "metaspace":  # as Llama 2: words were apart in training, and are not any more
        made.pre_tokenizer = pre_tokenizers.Sequence([])
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    if ending:
        template = ("<s> " if "bos" in ending else "") + "$A" + (" </s>" if "eos" in ending else "")
        ids = [(token, made.token_to_id(token)) for token in ("<s>", "</s>") if token in template]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
