"""The frozen base model, and how each family of models is trained and scored on a task.

    LABEL_EMBEDDING   pooled text embedding against the frozen embeddings of the label words; no trainable head
    SEQ_2_SEQ_LM      the label word as the decoder's answer to the text (T5, Flan-T5)
    CAUSAL_LM         the label word as the continuation of the text (Llama, Qwen, GPT-2, …)

Shape suffixes: B rows, S tokens of a text, A tokens of an answer, C classes, D model width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.data.prompts import Prompt

LOGIT_SCALE = 20.0  # cosine similarities are multiplied by this before the softmax, as sentence-transformers does
PLAIN = Prompt()
Answers = list[list[int]]
Labels = Tensor | Answers


@dataclass(frozen=True)
class Backbone(ABC):
    """A frozen model with its tokenizer; `digest` identifies the weights, `scoring` how texts are answered.

    Texts are padded to the longest of their batch, rounded up to a multiple of `pad_multiple`. Where `real` is set, it
    keeps what is no padding: the last mask of each shape.
    """

    model: Any
    tokenizer: Any
    max_length: int
    digest: str
    scoring: str = "likelihood"
    pad_multiple: int = 1
    real: dict[torch.Size, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def tokenize(self, texts: Sequence[str], prompt: Prompt = PLAIN) -> list[list[int]]:
        """Token ids of each text in its prompt, with special tokens, at least one a text. A text too long for
        `max_length` is cut, its prompt is not.

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
        """The label words as `row_losses` and `predict` take them. To be called before a task is in the weights."""

    @abstractmethod
    def units(self, labels: Labels) -> np.ndarray:
        """(C,) loss terms of a row of each class: 1, or the tokens of the answer."""

    @abstractmethod
    def row_losses(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Tensor:
        """(B,) float32: the sum of each row's loss terms, −Σ log p. `targets` are (B,) label indices on the host."""

    @abstractmethod
    def predict(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """(B,) predicted label index, −1 for an answer that is no label; at most `batch_size` texts at once."""

    def pad(self, rows: Sequence[Sequence[int]], *, left: bool = False, multiple: int = 1) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask (B, S) on the model's device; S is the longest row's, rounded up."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        longest = -(-int(lengths.max()) // multiple) * multiple
        mask = np.arange(longest) < lengths[:, None]
        if left:
            mask = mask[:, ::-1]
        ids = np.full(mask.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        found = self.to_device(mask.astype(np.int64))
        if self.real is not None:
            self.real[found.shape] = self.real[torch.Size([found.numel()])] = found  # some models flatten their rows
        return self.to_device(ids), found

    def to_device(self, array: np.ndarray) -> Tensor:
        """A host array as a tensor on the model's device, without waiting for the copy."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    @property
    def _nothing(self) -> list[int]:
        """What stands for a text without tokens."""
        return [self.tokenizer.eos_token_id]

    def _cut(self, text: str, prompt: Prompt, length: int) -> list[int]:
        """Token ids of the prompt around as much of the head of `text` as fits; `length` is that of the whole."""
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


class LabelEmbedding(Backbone):
    """An encoder: 20 · cos(text, label word) are the logits."""

    @torch.no_grad()
    def encode_labels(self, words: Sequence[str]) -> Tensor:
        """Unit embeddings (C, D) of the label words."""
        return self.embed(self.tokenize(words))

    def units(self, labels: Labels) -> np.ndarray:
        """A row has one loss term."""
        return np.ones(len(labels), dtype=np.int64)

    def row_losses(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Tensor:
        """Cross-entropy over the task's label words."""
        return nn.functional.cross_entropy(self.logits(token_ids, labels), self.to_device(targets), reduction="none")

    def predict(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """The nearest label word."""
        chunks = [token_ids[i : i + batch_size] for i in range(0, len(token_ids), batch_size)]
        return torch.cat([self.logits(chunk, labels).argmax(-1) for chunk in chunks])

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Mean-pooled, L2-normalised embeddings (B, D) in float32."""
        ids_BS, mask_BS = self.pad(token_ids, multiple=self.pad_multiple)
        hidden_BSD = self.model(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state.float()
        mask_BS1 = mask_BS.unsqueeze(-1).to(hidden_BSD.dtype)
        pooled_BD = (hidden_BSD * mask_BS1).sum(1) / mask_BS1.sum(1)
        return nn.functional.normalize(pooled_BD, dim=-1)

    def logits(self, token_ids: Sequence[Sequence[int]], labels: Labels) -> Tensor:
        """20 · cos(text, label word): (B, C) in float32."""
        assert isinstance(labels, Tensor)
        return LOGIT_SCALE * self.embed(token_ids) @ labels.T


class TextToText(Backbone):
    """A language model that answers with the label word and the end-of-text token."""

    before_answer = ""  # what label words follow where their tokens are looked up
    repeats_prompt = False  # whether `generate` gives the prompt before the answer, or the decoder's start token

    def encode_labels(self, words: Sequence[str]) -> Answers:
        """Token ids of each label word as it follows a prompt, with the end-of-text token.

        Raises:
            ConfigError: two words are the same tokens.
        """
        head = self.tokenizer(self.before_answer, add_special_tokens=False)["input_ids"] if self.before_answer else []
        answers: Answers = []
        for word in words:
            ids = self.tokenizer(f"{self.before_answer} {word}".lstrip(), add_special_tokens=False)["input_ids"]
            answer = [*ids[len(head) :], self.tokenizer.eos_token_id]
            if answer in answers:
                twin = words[answers.index(answer)]
                raise ConfigError(f"labels: {twin!r} and {word!r} are the same tokens to the model; rename one of them")
            answers.append(answer)
        return answers

    def units(self, labels: Labels) -> np.ndarray:
        """A row has as many loss terms as its answer has tokens."""
        return np.fromiter(map(len, labels), dtype=np.int64, count=len(labels))

    def predict(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """By likelihood: the answer of largest Σ log p over its tokens, its end included and not divided by their
        number, so that answers of unequal length are alternatives of one distribution. By generation: the greedy
        answer, where it is a label word. The two agree where an answer has more than half of the probability."""
        answers = answers_of(labels)
        if self.scoring == "generation":
            chunks = [token_ids[i : i + batch_size] for i in range(0, len(token_ids), batch_size)]
            return torch.cat([self.generated(chunk, answers) for chunk in chunks])
        rows = max(1, batch_size // len(answers))
        chunks = [token_ids[i : i + rows] for i in range(0, len(token_ids), rows)]
        return torch.cat([self.log_likelihoods(chunk, answers).argmax(-1) for chunk in chunks])

    @torch.no_grad()
    def log_likelihoods(self, token_ids: Sequence[Sequence[int]], labels: Answers) -> Tensor:
        """(B, C) log p(answer | text) in float32. The text is read once, whatever the number of labels."""
        classes, longest = len(labels), max(map(len, labels))
        padded = np.array([answer + [-1] * (longest - len(answer)) for answer in labels])
        answers_CA = self.to_device(padded)
        first_BV, then = self.read(token_ids, classes)
        scores_BC = first_BV.float().log_softmax(-1)[:, answers_CA[:, 0]]
        if longest > 1:
            repeated_NA = answers_CA.repeat(len(token_ids), 1)  # N = B·C, the labels of a row together
            logits_NAV = then(repeated_NA[:, :-1].clamp_min(0)).float()
            nll_NA = nn.functional.cross_entropy(
                logits_NAV.transpose(1, 2), repeated_NA[:, 1:], reduction="none", ignore_index=-1
            )
            scores_BC = scores_BC - nll_NA.sum(-1).view(-1, classes)
        return scores_BC

    @torch.no_grad()
    def generated(self, token_ids: Sequence[Sequence[int]], labels: Answers) -> Tensor:
        """(B,) the label whose word greedy decoding gives, exactly; −1 where it gives none."""
        ids_BS, mask_BS = self.pad(token_ids, left=True, multiple=self.pad_multiple)
        output = self.model.generate(
            input_ids=ids_BS, attention_mask=mask_BS, max_new_tokens=max(map(len, labels)), do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.tokenizer.eos_token_id,
            synced_gpus=dist.is_initialized() and dist.get_world_size() > 1,
        )  # fmt: skip
        answers = self.text(output[:, ids_BS.shape[1] if self.repeats_prompt else 1 :])
        known = {word: index for index, word in enumerate(self.text(labels))}
        return torch.tensor([known.get(answer, -1) for answer in answers], device=self.device)

    def text(self, ids: Any) -> list[str]:
        """What token ids say, without special tokens and outer white space."""
        return [word.strip() for word in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    @abstractmethod
    def read(self, token_ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Any]:
        """Reads the texts. Gives the logits (B, V) of the first answer token, and a function from the first tokens of
        B · classes answers (N, A) to the logits (N, A, V) of what follows each."""


class Seq2Seq(TextToText):
    """T5 and its kin: the text goes to the encoder, the answer is the decoder's."""

    def row_losses(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Tensor:
        """−Σ log p over the tokens of each row's answer, its end included."""
        answers = [answers_of(labels)[target] for target in targets]
        ids_BS, mask_BS = self.pad(token_ids, multiple=self.pad_multiple)
        answers_BA, real_BA = self.pad(answers)
        start_B1 = torch.full_like(answers_BA[:, :1], self.model.config.decoder_start_token_id)
        logits_BAV = self.model(
            input_ids=ids_BS, attention_mask=mask_BS, decoder_input_ids=torch.cat([start_B1, answers_BA[:, :-1]], 1),
            use_cache=False,
        ).logits  # fmt: skip
        return summed_nll(logits_BAV, answers_BA, real_BA)

    def read(self, token_ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Any]:
        """One pass of the encoder, and of the decoder over its start token; the rest reuses their keys and values."""
        ids_BS, mask_BS = self.pad(token_ids, multiple=self.pad_multiple)
        start_B1 = torch.full_like(ids_BS[:, :1], self.model.config.decoder_start_token_id)
        seen = self.model(input_ids=ids_BS, attention_mask=mask_BS, decoder_input_ids=start_B1, use_cache=True)

        def then(answers_NA: Tensor) -> Tensor:
            seen.past_key_values.batch_repeat_interleave(classes)
            encoded = (seen.encoder_last_hidden_state.repeat_interleave(classes, 0),)
            return self.model(
                encoder_outputs=encoded, attention_mask=mask_BS.repeat_interleave(classes, 0),
                decoder_input_ids=answers_NA, past_key_values=seen.past_key_values, use_cache=True,
            ).logits  # fmt: skip

        return seen.logits[:, -1], then


class Causal(TextToText):
    """A decoder: the answer continues the text. Rows are padded on the left, so that answers end together."""

    before_answer, repeats_prompt = "Answer:", True

    def encode_labels(self, words: Sequence[str]) -> Answers:
        """Token ids of each label word as it follows a prompt, with the end-of-text token.

        Raises:
            ConfigError: two words are the same tokens, or text and answer together are beyond the model's positions.
        """
        answers = super().encode_labels(words)
        longest, most = max(map(len, answers)), getattr(self.model.config, "max_position_embeddings", None)
        if most and self.max_length + longest > most:
            raise ConfigError(
                f"model.max_length: {self.max_length} tokens of text and {longest} of an answer are beyond the model's "
                f"{most} positions; use at most {most - longest}"
            )
        return answers

    def row_losses(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Tensor:
        """−Σ log p over the tokens of each row's answer, its end included; logits are made of those positions only."""
        answers = [answers_of(labels)[target] for target in targets]
        together = [[*row, *answer] for row, answer in zip(token_ids, answers, strict=True)]
        ids_BS, mask_BS = self.pad(together, left=True, multiple=self.pad_multiple)
        answers_BA, real_BA = self.pad(answers, left=True)
        logits_BAV = self.model(
            input_ids=ids_BS, attention_mask=mask_BS, position_ids=positions(mask_BS), use_cache=False,
            logits_to_keep=answers_BA.shape[1] + 1,
        ).logits[:, :-1]  # fmt: skip
        return summed_nll(logits_BAV, answers_BA, real_BA)

    def read(self, token_ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Any]:
        """One pass over the texts; the rest reuses their keys and values."""
        ids_BS, mask_BS = self.pad(token_ids, left=True, multiple=self.pad_multiple)
        seen = self.model(
            input_ids=ids_BS, attention_mask=mask_BS, position_ids=positions(mask_BS), use_cache=True, logits_to_keep=1
        )

        def then(answers_NA: Tensor) -> Tensor:
            seen.past_key_values.batch_repeat_interleave(classes)
            mask_NS = torch.cat([mask_BS.repeat_interleave(classes, 0), torch.ones_like(answers_NA)], 1)
            return self.model(
                input_ids=answers_NA, attention_mask=mask_NS, past_key_values=seen.past_key_values, use_cache=True,
                position_ids=positions(mask_NS)[:, -answers_NA.shape[1] :],
            ).logits  # fmt: skip

        return seen.logits[:, -1], then


def answers_of(labels: Labels) -> Answers:
    """The labels of a text-to-text model."""
    assert isinstance(labels, list)
    return labels


def positions(mask_BS: Tensor) -> Tensor:
    """Position of every token among the real ones of its row, for rows padded on the left."""
    return (mask_BS.cumsum(-1) - 1).clamp_min(0)


def summed_nll(logits_BAV: Tensor, answers_BA: Tensor, real_BA: Tensor) -> Tensor:
    """(B,) −Σ log p of the real tokens, in float32."""
    nll_BA = nn.functional.cross_entropy(logits_BAV.float().transpose(1, 2), answers_BA, reduction="none")
    return (nll_BA * real_BA).sum(-1)


FAMILIES: dict[str, tuple[type[Backbone], str]] = {
    "LABEL_EMBEDDING": (LabelEmbedding, "AutoModel"),
    "SEQ_2_SEQ_LM": (Seq2Seq, "AutoModelForSeq2SeqLM"),
    "CAUSAL_LM": (Causal, "AutoModelForCausalLM"),
}
