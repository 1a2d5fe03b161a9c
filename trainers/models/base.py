"""The frozen base model and its tokenizer, as every family of models has them.

    LABEL_EMBEDDING   `encoder`: pooled text embedding against the frozen embeddings of the label words; no head
    SEQ_2_SEQ_LM      `seq2seq`: the label word as the decoder's answer to the text (T5, Flan-T5)
    CAUSAL_LM         `causal`: the label word as the continuation of the text (Llama, Qwen, GPT-2, …)

`text_to_text` has what the last two have in common; `loading.FAMILIES` is the table of families.
Shape suffixes, here and in those modules: B rows, S tokens of a text, A tokens of an answer, C classes, D model width,
V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.data.collate import Batch, Collate, Padded, moved_to
from trainers.data.prompts import Prompt

PLAIN, PADDED = Prompt(), Padded()
Answers = list[list[int]]
Labels = Tensor | Answers


@dataclass(frozen=True)
class Backbone(ABC):
    """A frozen model with its tokenizer. `digest` identifies the weights; `scoring` says how texts are answered.

    `collate` makes the batches that losses are computed from. Predictions are always computed from padded rows.
    """

    model: Any
    tokenizer: Any
    max_length: int
    digest: str
    scoring: str = "likelihood"
    collate: Collate = PADDED

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def tokenize(self, texts: Sequence[str], prompt: Prompt = PLAIN) -> list[list[int]]:
        """Token ids of each text in its prompt, with special tokens, at least one per text.

        A text that is too long for `max_length` is cut; its prompt is not.

        Raises:
            ConfigError: the prompt alone fills `max_length`.
        """
        if prompt == PLAIN:
            found = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
            return [ids or self._nothing for ids in found]
        alone = len(self.tokenizer(prompt.before + prompt.after)["input_ids"])
        if alone >= self.max_length:
            raise ConfigError(
                f"model.max_length: {self.max_length} tokens leave no room for a text, the prompt alone takes {alone}; "
                "raise it, or shorten model.prompt"
            )
        whole = self.tokenizer([prompt.before + text + prompt.after for text in texts])["input_ids"]
        return [
            (ids or self._nothing) if len(ids) <= self.max_length else self._cut(text, prompt, len(ids))
            for ids, text in zip(whole, texts, strict=True)
        ]

    @abstractmethod
    def encode_labels(self, words: Sequence[str]) -> Labels:
        """The label words in the form that the other methods take. Call it before a task is in the weights."""

    @abstractmethod
    def units(self, labels: Labels) -> np.ndarray:
        """(C,) number of loss terms per row of each class: 1, or the number of tokens of the answer."""

    @abstractmethod
    def batch(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Batch:
        """B rows and their labels as `losses` takes them, on the model's device. `targets` are (B,) label indices."""

    @abstractmethod
    def losses(self, batch: Batch, labels: Labels) -> Tensor:
        """(B,) float32: the sum of each row's loss terms, −Σ log p."""

    @abstractmethod
    def predict(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """(B,) predicted label indices, −1 for an answer that is no label; at most `batch_size` texts at once."""

    def reads_answers(self, modules: Mapping[str, nn.Module]) -> frozenset[str]:  # noqa: ARG002
        """Names of the layers whose rows are the answers' tokens, not the texts'."""
        return frozenset()

    def pad(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> Batch:
        """Rows to predict from, on the model's device."""
        way = self.collate if isinstance(self.collate, Padded) else PADDED
        return way(rows, pad_id=self.tokenizer.pad_token_id, left=left).to(self.device)

    def to_device(self, array: np.ndarray) -> Tensor:
        """A host array as a tensor on the model's device, without waiting for the copy."""
        return moved_to(torch.from_numpy(np.ascontiguousarray(array)), self.device)

    @property
    def _nothing(self) -> list[int]:
        """The token ids that replace a text without tokens."""
        return [self.tokenizer.eos_token_id]

    def _cut(self, text: str, prompt: Prompt, length: int) -> list[int]:
        """Token ids of the prompt around as much of the start of `text` as fits; `length` is that of the uncut row."""
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ends = [
            0,
            *(end for _, end in spans),
        ]  # not every token ends a character, and the prompt may join its neighbour

        def around(kept: int) -> list[int]:
            ids: list[int] = self.tokenizer(prompt.before + text[: ends[kept]] + prompt.after)["input_ids"]
            return ids

        kept = max(0, len(spans) - (length - self.max_length))
        ids = around(kept)
        while len(ids) > self.max_length:
            kept -= 1
            ids = around(kept)
        while kept < len(spans) and len(more := around(kept + 1)) <= self.max_length:
            kept, ids = kept + 1, more
        return ids
