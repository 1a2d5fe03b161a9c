"""Decoders: the answer continues the text.

Shape suffixes as in `base`; N is B · C.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cluster.errors import ConfigError
from trainers.data.collate import Batch
from trainers.models.base import Answers
from trainers.models.text_to_text import TextToText, Then, summed_nll


class Causal(TextToText):
    """A decoder: the answer continues the text. Rows are padded on the left, so that answers end together."""

    before_answer, repeats_prompt = "Answer:", True

    def encode_answers(self, words: Sequence[str]) -> Answers:
        """Token ids of each answer as it follows a prompt, with the end-of-text token.

        Raises:
            ConfigError: text and answer together are beyond the model's positions.
        """
        answers = super().encode_answers(words)
        longest, most = max(map(len, answers)), getattr(self.model.config, "max_position_embeddings", None)
        if most and self.max_length + longest > most:
            raise ConfigError(
                f"model.max_length: {self.max_length} tokens of text and {longest} of an answer are beyond the model's "
                f"{most} positions; use at most {most - longest}"
            )
        return answers

    def answer_batch(self, token_ids: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Batch:
        """Each text and its answer as one row."""
        together = [[*row, *answer] for row, answer in zip(token_ids, answers, strict=True)]
        return self.collate(together, answers, pad_id=self.tokenizer.pad_token_id, left=True).to(self.device)

    def answer_losses(self, batch: Batch) -> Tensor:
        """−Σ log p over the tokens of each row's answer, its end included; only their logits are computed."""
        assert batch.answers is not None
        longest = batch.answers.shape[1]
        logits_BAV = self.model(
            input_ids=batch.ids, attention_mask=batch.attention, use_cache=False,
            position_ids=positions(batch.mask) if batch.positions is None else batch.positions,
            logits_to_keep=longest + 1 if batch.keep is None else batch.keep,
        ).logits[:, :longest]  # fmt: skip
        return summed_nll(logits_BAV, batch)

    def read(self, token_ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Then]:
        """One pass over the texts; the rest reuses their keys and values."""
        texts = self.pad(token_ids, left=True)
        seen = self.model(
            input_ids=texts.ids, attention_mask=texts.mask, position_ids=positions(texts.mask), use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip

        def then(answers_NA: Tensor) -> Tensor:
            seen.past_key_values.batch_repeat_interleave(classes)
            mask_NS = torch.cat([texts.mask.repeat_interleave(classes, 0), torch.ones_like(answers_NA)], 1)
            return self.model(
                input_ids=answers_NA, attention_mask=mask_NS, past_key_values=seen.past_key_values, use_cache=True,
                position_ids=positions(mask_NS)[:, -answers_NA.shape[1] :],
            ).logits  # fmt: skip

        return seen.logits[:, -1], then


def positions(mask_BS: Tensor) -> Tensor:
    """Position of every token among the real ones of its row, for rows padded on the left."""
    return (mask_BS.cumsum(-1) - 1).clamp_min(0)
