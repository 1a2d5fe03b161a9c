"""One small model of each family, texts and label words, and Hugging Face's own losses as reference."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_models import tiny, tokenizer
from trainers.config import ModelConfig
from trainers.data.prompts import Prompt
from trainers.models.base import Backbone
from trainers.models.causal import Causal
from trainers.models.loading import load_backbone
from trainers.models.seq2seq import Seq2Seq
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import TokenIds
from trainers.objectives.classification import ClassifiedSplit

FAMILIES: dict[str, type[TextToText]] = {
    "t5": Seq2Seq, "flan-t5": Seq2Seq, "llama": Causal, "qwen2": Causal, "gpt2": Causal,
}  # fmt: skip
TASK_TYPES = {Seq2Seq: "SEQ_2_SEQ_LM", Causal: "CAUSAL_LM"}
WORDS = ["yes", "certainly not", "perhaps", "a matter of taste"]  # 1, 2, 1 and 4 tokens, and the end
TEXTS = [f"sample {'word ' * repeats}number {repeats}" for repeats in (0, 9, 3, 17, 1, 5, 12)]
TARGETS = np.array([0, 1, 2, 3, 3, 1, 0])
ANSWER = Prompt("question : ", " . answer :")
# Answers that begin alike, one within another, one of the end alone, and padding (0) inside; 102 is the end.
ALIKE = [[7, 9, 9, 102], [7, 102], [7, 9, 102], [5, 0, 6, 8, 102], [0, 102], [102]]
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def backbone(family: str) -> TextToText:
    """Weights enlarged, since those at initialisation answer everything alike."""
    model = tiny(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 and "t5" not in family else 1.0)
    return FAMILIES[family](model, tokenizer(), 64, "digest")


@cache
def minilm() -> Backbone:
    return load_backbone(ModelConfig(max_length=16))


def reference(bone: TextToText, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """Σ −log p over the answers' tokens: the model's own mean loss times their number, padded on the right."""

    def padded(parts: list[list[int]], value: int) -> Tensor:
        tensors = [torch.tensor(part) for part in parts]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    inputs = [list(row) for row in rows]
    labels = [list(answer) for answer in answers]
    if isinstance(bone, Causal):
        labels = [[-100] * len(row) + answer for row, answer in zip(inputs, labels, strict=True)]
        inputs = [[*row, *answer] for row, answer in zip(inputs, answers, strict=True)]
    mask = padded([[1] * len(row) for row in inputs], 0)
    ids = padded(inputs, bone.tokenizer.pad_token_id)
    loss: Tensor = bone.model(input_ids=ids, attention_mask=mask, labels=padded(labels, -100)).loss
    return loss * sum(map(len, answers))


def each_alone(bone: TextToText, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """(B, C) log p of every answer to every row."""
    with torch.no_grad():
        return -torch.stack([torch.stack([reference(bone, [row], [answer]) for answer in answers]) for row in rows])


def split_of(bone: Backbone, rows: Sequence[list[int]], targets: np.ndarray, labels: Any) -> ClassifiedSplit:
    return ClassifiedSplit(
        base=bone, token_ids=TokenIds.of(rows), targets=targets, terms=bone.units(labels)[targets], labels=labels
    )
