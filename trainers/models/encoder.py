"""Encoders: a text is answered by the label word whose frozen embedding is nearest to its own.

Shape suffixes as in `base`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from trainers.data.collate import Batch
from trainers.data.prompts import Prompt
from trainers.models.base import PLAIN, Backbone, Labels, side_by_side
from trainers.models.capabilities import taken
from trainers.models.words import check_apart, check_known, check_said, first_places

LOGIT_SCALE = 20.0  # cosine similarities are multiplied by this before the softmax, as sentence-transformers does


class LabelEmbedding(Backbone):
    """An encoder: 20 · cos(text, label word) are the logits."""

    def check_labels(self, words: Sequence[str], prompt: Prompt = PLAIN) -> None:  # noqa: ARG002
        """See Backbone. Words longer than `max_length` are cut, and may be the same then."""
        rows = self.tokenize(words)
        whole = self.framed(words)
        check_apart(words, [tuple(ids) for ids in whole])
        fix = f"rename one of them, or raise {self.limited_by}, which cuts them after {self.max_length} tokens"
        check_apart(words, [tuple(ids) for ids in rows], fix)
        check_said(self.tokenizer, words, rows)
        if self.embeddings is not None:
            for word, ids in zip(words, rows, strict=True):
                check_known(self.tokenizer, ids, self.embeddings, f"label {word!r} has")

    @torch.no_grad()
    def encode_labels(self, words: Sequence[str], prompt: Prompt = PLAIN) -> Tensor:
        """Unit embeddings (C, D) of the label words; they stand alone, without the prompt."""
        self.check_labels(words, prompt)
        return self.embed(self.pad(self.tokenize(words)))

    def units(self, labels: Labels) -> np.ndarray:
        """A row has one loss term."""
        return np.ones(len(labels), dtype=np.int64)

    def batch(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Batch:  # noqa: ARG002
        """The texts, and label indices as targets."""
        texts = self.collate(token_ids, pad_id=self.pad_id)
        return replace(texts, targets=torch.from_numpy(targets)).to(self.device)

    def losses(self, batch: Batch, labels: Labels) -> Tensor:
        """Cross-entropy over the label words of each row's task."""
        assert batch.targets is not None
        logits_BC = self.logits(batch, labels)
        if batch.among is not None:
            logits_BC = logits_BC.masked_fill(outside(batch.among, logits_BC.shape[1]), -torch.inf)
        return nn.functional.cross_entropy(logits_BC, batch.targets, reduction="none")

    def scores(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """As `logits`."""
        chunks = [token_ids[i : i + batch_size] for i in range(0, len(token_ids), batch_size)]
        return torch.cat([self.logits(self.pad(chunk), labels) for chunk in chunks])

    def predict(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """The nearest label word."""
        return self.scores(token_ids, labels, batch_size).argmax(-1)

    def predict_among(
        self, token_ids: Sequence[Sequence[int]], sets: Sequence[Labels], batch_size: int
    ) -> list[Tensor]:
        """See Backbone. A text is read once."""
        chunks = [token_ids[i : i + batch_size] for i in range(0, len(token_ids), batch_size)]
        embedded = [self.embed(self.pad(chunk)) for chunk in chunks]
        return [torch.cat([similarity(text_BD, labels).argmax(-1) for text_BD in embedded]) for labels in sets]

    def union(self, words: Sequence[Sequence[str]], labels: Sequence[Labels], prompt: Prompt = PLAIN) -> Tensor:  # noqa: ARG002
        """See Backbone. Each word keeps the embedding that it has in its own task."""
        found, seen = side_by_side(labels), self.tokenize([word for each in words for word in each])
        assert isinstance(found, Tensor)
        return found[first_places([tuple(ids) for ids in seen])]

    def embed(self, batch: Batch) -> Tensor:
        """Mean-pooled, L2-normalised embeddings (B, D) in float32."""
        without = taken(self.model, use_cache=False)  # which decoders would fill, as encoders too
        hidden_BSD = self.model(
            input_ids=batch.ids, attention_mask=batch.attention, **without
        ).last_hidden_state.float()  # fmt: skip
        mask_BS1 = batch.mask.unsqueeze(-1).to(hidden_BSD.dtype)
        pooled_BD = (hidden_BSD * mask_BS1).sum(1) / mask_BS1.sum(1)
        return nn.functional.normalize(pooled_BD, dim=-1)

    def logits(self, batch: Batch, labels: Labels) -> Tensor:
        """20 · cos(text, label word): (B, C) in float32."""
        return similarity(self.embed(batch), labels)


def similarity(text_BD: Tensor, labels: Labels) -> Tensor:
    """LOGIT_SCALE · cos, (B, C), of embedded texts and label words."""
    assert isinstance(labels, Tensor)
    return LOGIT_SCALE * text_BD @ labels.T


def outside(among_B2: Tensor, columns: int) -> Tensor:
    """(B, C) whether a column is none of a row's own, which are from the first to before the second of its numbers."""
    column_C = torch.arange(columns, device=among_B2.device)
    return (column_C < among_B2[:, :1]) | (column_C >= among_B2[:, 1:])
