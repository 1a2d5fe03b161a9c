"""The frozen base model and its tokenizer, as every family of models has them.

    LABEL_EMBEDDING   `encoder`: pooled text embedding against the frozen embeddings of the label words; no head
    SEQ_2_SEQ_LM      `seq2seq`: the label word as the decoder's answer to the text (T5, Flan-T5)
    CAUSAL_LM         `causal`: the label word as the continuation of the text (Llama, Qwen, GPT-2, …)

`text_to_text` has what the last two have in common; `loading.FAMILIES` is the table of families.
Shape suffixes, here and in those modules: B rows, S tokens of a text, A tokens of an answer, C classes, D model width,
V vocabulary.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.data.collate import Batch, Collate, Padded, moved_to
from trainers.data.prompts import Prompt
from trainers.identity import Identity
from trainers.models.words import (
    RARE,
    Frame,
    check_known,
    cuts,
    encoded,
    frame_of,
    most_id,
    once,
    twice,
    usable,
    without_end,
    writes,
)

PLAIN, PADDED = Prompt(), Padded()
ALONE = {"return_attention_mask": False, "return_token_type_ids": False}  # token ids, and no lists beside them
Answers = list[list[int]]
Labels = Tensor | Answers


@dataclass(frozen=True)
class Backbone(ABC):
    """A frozen model with its tokenizer. `digest` identifies the weights, `tokenizer_digests` the tokenizer's files,
    `settings` what is computed with them; `scoring` says how texts are answered.

    `collate` makes the batches that losses are computed from. Predictions are always computed from padded rows.
    """

    closes_text: ClassVar[bool] = True  # whether a row ends as the tokenizer ends a text, since no answer follows it

    model: Any
    tokenizer: Any
    max_length: int
    digest: str
    scoring: str = "likelihood"
    collate: Collate = PADDED
    tokenizer_digests: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    limited_by: str = "model.max_length"  # the key that `max_length` comes from, for messages

    def cut_at(self, max_length: int | None) -> Self:
        """The same base as a task with a `max_length` of its own reads with it; None is the base's."""
        return self if max_length is None else replace(self, max_length=max_length, limited_by="max_length")

    @property
    def identity(self) -> Identity:
        """What tells this base from others."""
        return Identity(self.digest, self.tokenizer_digests, self.settings)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def tokenize(self, texts: Sequence[str], prompt: Prompt = PLAIN, words: Sequence[str] = ()) -> list[list[int]]:  # noqa: ARG002
        """Token ids of each text in its prompt, with special tokens, at least one per text.

        A text that is too long for `max_length` is cut; its prompt is not. `words` are those that may answer.

        Raises:
            ConfigError: the prompt alone fills `max_length`.
        """
        if prompt == PLAIN:
            return [ids or self._nothing for ids in self._framed(texts, most=self.max_length)]
        (empty,) = self.framed([prompt.before + prompt.after], prompt)
        if len(empty) >= self.max_length:
            raise ConfigError(
                f"{self.limited_by}: {self.max_length} tokens leave no room for a text, the prompt alone takes "
                f"{len(empty)}; raise it, or shorten model.prompt"
            )
        whole = self.framed([prompt.before + text + prompt.after for text in texts], prompt)
        return [
            (ids or self._nothing) if len(ids) <= self.max_length else self._cut(text, prompt, len(ids))
            for ids, text in zip(whole, texts, strict=True)
        ]

    def framed(self, strings: Sequence[str], prompt: Prompt = PLAIN) -> list[list[int]]:
        """Token ids of whole strings, uncut, with the special tokens that the tokenizer adds. Those that `prompt`
        spells out too are there once."""
        if prompt not in self._twice:
            self._twice[prompt] = twice(self.tokenizer, self._frame, prompt)
        first, last = self._twice[prompt]
        return [once(ids, first, last if self.closes_text else 0) for ids in self._framed(strings)]

    def check_tokens(self) -> None:
        """Checks tokenizer against model.

        Raises:
            ConfigError: what the tokenizer adds to every text has no embedding.
        """
        if self.embeddings is not None:
            check_known(self.tokenizer, [*self._frame.before, *self._added_after], self.embeddings, "every text gets")

    @abstractmethod
    def check_labels(self, words: Sequence[str], prompt: Prompt = PLAIN) -> None:
        """Checks label words as `encode_labels` does, by their tokens alone.

        Raises:
            ConfigError: the model cannot tell two of them apart, or does not know one.
        """

    def check_texts(self, texts: Sequence[str], words: Sequence[str], prompt: Prompt = PLAIN) -> None:
        """Checks rows and the words that may answer them.

        Raises:
            ConfigError: a row has a token without an embedding or cannot be written, or as `tokenize`.
        """
        known = self.embeddings
        if (known is None or most_id(self.tokenizer) < known) and writes(self.tokenizer, RARE):
            texts = texts[:1]  # every token has an embedding; what remains is whether the prompt leaves room
        for ids in self.tokenize(texts, prompt, words):
            if known is not None:
                check_known(self.tokenizer, ids, known, "a text has")

    @cached_property
    def embeddings(self) -> int | None:
        """Number of tokens that the model has embeddings for; None if it does not say."""
        if self.model is None:
            return None
        try:
            table = self.model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            return None
        counts = getattr(table, "num_embeddings", None), getattr(self.model.config, "vocab_size", None)
        return next((count for count in counts if isinstance(count, int)), None)

    @cached_property
    def pad_id(self) -> int:
        """The token that stands for padding, which is masked and so may be any that exists: the tokenizer's, or another
        if it has none or the model has no embedding for it."""
        own = self.tokenizer
        model = getattr(getattr(self.model, "config", None), "pad_token_id", None)
        return usable([own.pad_token_id, model, own.eos_token_id], self.embeddings)

    @abstractmethod
    def encode_labels(self, words: Sequence[str], prompt: Prompt = PLAIN) -> Labels:
        """The label words in the form that the other methods take, as they answer texts in this prompt. Call it before
        a task is in the weights. Raises ConfigError as `check_labels`."""

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
    def scores(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """(B, C) float32: numbers of which softmax makes probabilities; at most `batch_size` texts at once."""

    @abstractmethod
    def predict(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """(B,) predicted label indices, −1 for an answer that is no label; at most `batch_size` texts at once."""

    def predict_among(
        self, token_ids: Sequence[Sequence[int]], sets: Sequence[Labels], batch_size: int
    ) -> list[Tensor]:
        """`predict` for several sets of labels, over the same texts."""
        return [self.predict(token_ids, labels, batch_size) for labels in sets]

    @abstractmethod
    def union(self, words: Sequence[Sequence[str]], labels: Sequence[Labels], prompt: Prompt = PLAIN) -> Labels:
        """The labels of several tasks as one set, from which a text of the first task, in its prompt, is answered.

        The first task's own come first. Words that the model cannot tell from an earlier one are there once.

        Args:
            words: per task, its label words.
            labels: per task, what `encode_labels` made of them.

        Raises:
            ConfigError: the first task's words would have other tokens beside those of the others.
        """

    def reads_answers(self, modules: Mapping[str, nn.Module]) -> frozenset[str]:  # noqa: ARG002
        """Names of the layers whose rows are the answers' tokens, not the texts'."""
        return frozenset()

    def pad(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> Batch:
        """Rows to predict from, on the model's device."""
        way = self.collate if isinstance(self.collate, Padded) else PADDED
        return way(rows, pad_id=self.pad_id, left=left).to(self.device)

    def to_device(self, array: np.ndarray) -> Tensor:
        """A host array as a tensor on the model's device, without waiting for the copy."""
        return moved_to(torch.from_numpy(np.ascontiguousarray(array)), self.device)

    @property
    def _nothing(self) -> list[int]:
        """The token ids that replace a text without tokens."""
        own = self.tokenizer
        return [usable([own.eos_token_id, own.sep_token_id, own.bos_token_id, own.unk_token_id], self.embeddings)]

    @cached_property
    def _frame(self) -> Frame:
        return frame_of(self.tokenizer)

    @cached_property
    def _twice(self) -> dict[Prompt, tuple[int, int]]:
        return {}

    @property
    def _added_after(self) -> tuple[int, ...]:
        return self._frame.after if self.closes_text else ()

    def _framed(self, strings: Sequence[str], most: int | None = None) -> list[list[int]]:
        """Token ids with what the tokenizer adds, cut to `most`. If an answer follows, nothing is added at the end."""
        ending = () if self.closes_text else self._frame.after
        limit = {} if most is None else {"truncation": True, "max_length": most + len(ending)}
        found = encoded(self.tokenizer, list(strings), **ALONE, **limit)["input_ids"] if strings else []
        return [without_end(ids, ending) for ids in found]

    def _cut(self, text: str, prompt: Prompt, length: int) -> list[int]:
        """Token ids of the prompt around as much of the start of `text` as fits; `length` is that of the uncut row."""
        ends, counted = cuts(self.tokenizer, text)
        last = len(ends) - 1

        def around(kept: int) -> list[int]:
            return self.framed([prompt.before + text[: ends[kept]] + prompt.after], prompt)[0]

        kept = max(0, last - (length - self.max_length))
        if not counted:
            kept = max(0, bisect_right(range(last + 1), self.max_length, key=lambda kept: len(around(kept))) - 1)
        ids = around(kept)
        while len(ids) > self.max_length:
            kept -= 1
            ids = around(kept)
        while kept < last and len(more := around(kept + 1)) <= self.max_length:
            kept, ids = kept + 1, more
        return ids


def side_by_side(labels: Sequence[Labels]) -> Labels:
    """The labels of several tasks, one after the other."""
    encoded = [each for each in labels if isinstance(each, Tensor)]
    return torch.cat(encoded) if encoded else [ids for each in labels for ids in each]
