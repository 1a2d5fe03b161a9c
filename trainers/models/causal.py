"""Decoders: the answer continues the text.

Shape suffixes as in `base`; N is B · C.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from cluster.errors import ConfigError
from trainers.data.collate import Batch
from trainers.data.prompts import Prompt
from trainers.models.base import PLAIN, Answers
from trainers.models.capabilities import check_repeatable, most_positions, needs, taken
from trainers.models.text_to_text import TextToText, Then, summed_nll
from trainers.models.trained_tokens import Reading
from trainers.models.words import apart, joined, seam, spread

CHECKED_ROWS, CHECKED_WORDS = 64, 8  # of a task, each as one string with each
END = 4  # characters at the end of a row that decide how a word is written after it
ENDS_AT_ONCE = 512


class Causal(TextToText):
    """A decoder: the answer continues the text.

    If `reuses`, rows are padded on the left, so that answers end together, and positions are given. A decoder with
    layers that are no attention, or one that counts positions itself, gets rows padded on the right: what comes after a
    token does not change it.

    The tokens of a row and of its answer are those of both as one string, see `words.seam`. What the tokenizer adds at
    the end of a text is left out, since the answer follows.
    """

    closes_text = False
    repeats_prompt = True

    @cached_property
    def reading(self) -> Reading:
        """How rows that are trained on some of their tokens are read. Collective if the model is partitioned."""
        end = self.tokenizer.eos_token_id
        return Reading.of(self.model, (end, (end + 1) % (self.embeddings or end + 2)))

    def tokenize(self, texts: Sequence[str], prompt: Prompt = PLAIN, words: Sequence[str] = ()) -> list[list[int]]:
        """See Backbone. Tokens at the end of the prompt that are joined with one of the `words` are left out: they are
        the beginning of the answers."""
        rows = super().tokenize(texts, prompt)
        dropped = seam(self.tokenizer, prompt, words).dropped if words else 0
        return [ids[: len(ids) - dropped] or self._nothing for ids in rows]

    def check_texts(self, texts: Sequence[str], words: Sequence[str], prompt: Prompt = PLAIN) -> None:
        """See Backbone; also, for up to CHECKED_WORDS words, that row and answer are the tokens of both as one string.

        Of every row, the last END characters are written with the words. CHECKED_ROWS rows, and those whose ends are
        joined with a word, are written as a whole.
        """
        super().check_texts(texts, words, prompt)
        made, some = seam(self.tokenizer, prompt, words), spread(words, CHECKED_WORDS)
        answers = {word: made.answers[words.index(word)] for word in some}
        rows = [prompt.before + text + prompt.after for text in texts]
        ends = {row[-END:]: row for row in rows}
        parts = [[*ends][start : start + ENDS_AT_ONCE] for start in range(0, len(ends), ENDS_AT_ONCE)]
        suspect = [ends[end] for part in parts for end in self._joined(part, answers, made.dropped)]
        if found := self._joined([*spread(rows, CHECKED_ROWS), *suspect], answers, made.dropped, prompt):
            row, word = next(iter(found.items()))
            raise apart(Prompt(after=row), word)

    def _joined(
        self, rows: Sequence[str], answers: Mapping[str, list[int]], dropped: int, prompt: Prompt = PLAIN
    ) -> dict[str, str]:
        """Those of the rows that a word is joined with, each with the first such word. `answers` are token ids of the
        words after a row that lost its last `dropped` tokens."""
        alone = dict(zip(rows, self.framed(rows, prompt), strict=True))
        pairs = [(row, word) for row in rows for word in answers]
        wholes = self.framed([joined(*pair) for pair in pairs], prompt)
        found: dict[str, str] = {}
        for (row, word), whole in zip(pairs, wholes, strict=True):
            ids = alone[row]
            if ids and [*ids[: len(ids) - dropped], *answers[word]] != whole:
                found.setdefault(row, word)
        return found

    def answer_ids(self, words: Sequence[str], prompt: Prompt) -> Answers:
        """See TextToText."""
        return seam(self.tokenizer, prompt, words).answers

    def encode_answers(self, words: Sequence[str], prompt: Prompt = PLAIN) -> Answers:
        """As TextToText's.

        Raises:
            ConfigError: text and answer together are beyond the model's positions.
        """
        answers = super().encode_answers(words, prompt)
        longest = max(map(len, answers))
        most = None if self.model is None else most_positions(self.model)  # a reader of tokens has no model
        if most and self.max_length + longest > most:
            raise ConfigError(
                f"{self.limited_by}: {self.max_length} tokens of text and {longest} of an answer are beyond the "
                f"model's {most} positions; use at most {most - longest}"
            )
        return answers

    def answer_batch(self, token_ids: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Batch:
        """Each text and its answer as one row."""
        together = [[*row, *answer] for row, answer in zip(token_ids, answers, strict=True)]
        return self.collate(together, answers, pad_id=self.pad_id, left=self.reuses).to(self.device)

    def answer_losses(self, batch: Batch) -> Tensor:
        """−Σ log p over the tokens of each row's answer, its end included; only their logits are computed."""
        assert batch.answers is not None
        if not self.reuses:
            return summed_nll(self.logits_after(batch), batch)
        longest = batch.answers.shape[1]
        logits_BAV = self.model(
            input_ids=batch.ids, attention_mask=batch.attention, use_cache=False,
            position_ids=positions(batch.mask) if batch.positions is None else batch.positions,
            logits_to_keep=longest + 1 if batch.keep is None else batch.keep,
        ).logits[:, :longest]  # fmt: skip
        return summed_nll(logits_BAV, batch)

    def logits_after(self, batch: Batch) -> Tensor:
        """(B, A, V) logits of the answers' tokens, of rows padded on the right."""
        assert batch.answers is not None and batch.answers_mask is not None
        longest, answer = batch.ids.shape[1], torch.arange(batch.answers.shape[1], device=batch.ids.device)
        first_B1 = (batch.mask.sum(1) - batch.answers_mask.sum(1) - 1).unsqueeze(1)  # columns of the texts' last tokens
        columns_BA = (first_B1 + answer).clamp_max(longest - 1)
        optional = taken(self.model, use_cache=False, logits_to_keep=longest - int(first_B1.min()))
        logits_BKV = self.model(input_ids=batch.ids, **optional).logits
        places_BA = columns_BA - (longest - logits_BKV.shape[1])
        return logits_BKV.gather(1, places_BA.unsqueeze(-1).expand(-1, -1, logits_BKV.shape[-1]))

    def read(self, token_ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Then]:
        """One pass over the texts; the rest reuses their keys and values. Positions are given, since rows are padded on
        the left."""
        needs(self.model, "position_ids", "past_key_values", "logits_to_keep")
        texts = self.pad(token_ids, left=True)
        seen = self.model(
            input_ids=texts.ids, attention_mask=texts.mask, position_ids=positions(texts.mask), use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        check_repeatable(seen.past_key_values)

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
