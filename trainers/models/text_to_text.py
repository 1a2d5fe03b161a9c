"""What encoder-decoders and decoders have in common: they answer a text with tokens.

Shape suffixes as in `base`; N is B · C.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.config import GREEDY, DecodingConfig
from trainers.data.collate import Batch
from trainers.data.prompts import Prompt
from trainers.models.base import PADDED, PLAIN, Answers, Backbone, Labels
from trainers.models.capabilities import evaluating
from trainers.models.decoding import Heard, Pieces, Said, Spoken, asked_of, generated_tokens, said
from trainers.models.words import bare, check_apart, check_known, check_said, first_places, without_end

PROBED = 3  # tokens that are generated to find out whether the cache can be continued
Then = Callable[[Tensor], Tensor]  # first tokens of N answers, (N, A) → logits (N, A, V) of the token after each


class TextToText(Backbone):
    """A language model that answers with the label word and the end-of-text token."""

    repeats_prompt = False  # whether the output of `generate` begins with the prompt, or with the decoder's start token

    def check_tokens(self) -> None:
        """See Backbone; also that the end of an answer has an embedding."""
        super().check_tokens()
        if self.answerable is not None:
            check_known(self.tokenizer, [self.tokenizer.eos_token_id], self.answerable, "every answer ends with")

    @cached_property
    def answerable(self) -> int | None:
        """Number of tokens that can be in an answer: those with an embedding and an output; None if unknown."""
        head = self.model.get_output_embeddings() if hasattr(self.model, "get_output_embeddings") else None
        counts = [self.embeddings, getattr(head, "out_features", None)]
        return min([count for count in counts if isinstance(count, int)], default=None)

    def check_labels(self, words: Sequence[str], prompt: Prompt = PLAIN) -> None:
        """See Backbone. For `scoring: generation` the words must also differ as strings."""
        self._checked(words, prompt)

    def encode_labels(self, words: Sequence[str], prompt: Prompt = PLAIN) -> Answers:
        """As `encode_answers`, checked."""
        if self.model is not None:
            self.find_out(generates=self.scoring == "generation")
        return self._checked(words, prompt)

    def find_out(self, *, generates: bool) -> None:
        """Tries what the model's cache can do, before a task trains. Collective if the model is partitioned."""
        _ = self.reuses, generates and self.caches

    def encode_answers(self, words: Sequence[str], prompt: Prompt = PLAIN) -> Answers:
        """Token ids of each answer as it follows a text in this prompt, with the end-of-text token.

        Raises:
            ConfigError: an answer has no tokens of its own, or a token without an embedding.
        """
        answers = [[*ids, self.tokenizer.eos_token_id] for ids in self.answer_ids(words, prompt)]
        if self.answerable is not None:
            for word, ids in zip(words, answers, strict=True):
                check_known(self.tokenizer, ids, self.answerable, f"label {word!r} has")
        return answers

    def answer_ids(self, words: Sequence[str], prompt: Prompt) -> Answers:  # noqa: ARG002
        """Token ids of each answer, without an end."""
        return [bare(self.tokenizer, word.lstrip()) for word in words]

    def _checked(self, words: Sequence[str], prompt: Prompt) -> Answers:
        answers = self.encode_answers(words, prompt)
        check_apart(words, [tuple(ids) for ids in answers])
        check_said(self.tokenizer, words, [bare(self.tokenizer, word) for word in words])
        if self.scoring == "generation":
            fix = "rename one of them, or use model.scoring: likelihood"
            check_apart(words, self.text(answers), fix, "text once generated, without special tokens")
        return answers

    def union(self, words: Sequence[Sequence[str]], labels: Sequence[Labels], prompt: Prompt = PLAIN) -> Answers:  # noqa: ARG002
        """See Backbone. The words are written after this prompt, whatever their tasks' prompts are."""
        found = self.encode_answers([word for each in words for word in each], prompt)
        if found[: len(words[0])] != self.encode_answers(words[0], prompt):
            raise ConfigError(
                "evaluate.labels: both: the end of the prompt is joined with labels of this task and not with those of "
                "others, so that they cannot be compared; end model.prompt in another way, for instance with "
                "'\\nAnswer:', or use evaluate.labels: own"
            )
        return [found[place] for place in first_places([tuple(ids) for ids in found])]

    def units(self, labels: Labels) -> np.ndarray:
        """A row has as many loss terms as its answer has tokens."""
        return np.fromiter(map(len, labels), dtype=np.int64, count=len(labels))

    def batch(self, token_ids: Sequence[Sequence[int]], targets: np.ndarray, labels: Labels) -> Batch:
        """The texts, and the label words as answers."""
        return self.answer_batch(token_ids, [answers_of(labels)[target] for target in targets])

    def losses(self, batch: Batch, labels: Labels) -> Tensor:  # noqa: ARG002
        """As `answer_losses`: the labels are in the batch."""
        return self.answer_losses(batch)

    @abstractmethod
    def answer_batch(self, token_ids: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Batch:
        """B texts and the answer of each, which ends with the end-of-text token, on the model's device."""

    @abstractmethod
    def answer_losses(self, batch: Batch) -> Tensor:
        """(B,) float32: −Σ log p over the tokens of each row's answer, its end included."""

    def predict(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """By likelihood: the answer of largest Σ log p over its tokens, its end included. The sum is not divided by
        their number, so that answers of unequal length are alternatives of one distribution. By generation: the greedy
        answer, if it is a label word. The two agree if an answer has more than half of the probability."""
        if self.scoring == "generation":
            chunks = [token_ids[i : i + batch_size] for i in range(0, len(token_ids), batch_size)]
            return torch.cat([self.generated(chunk, answers_of(labels)) for chunk in chunks])
        return self.scores(token_ids, labels, batch_size).argmax(-1)

    def scores(self, token_ids: Sequence[Sequence[int]], labels: Labels, batch_size: int) -> Tensor:
        """As `log_likelihoods`, of every label to every text."""
        answers = answers_of(labels)
        rows = max(1, batch_size // len(answers))
        chunks = [token_ids[i : i + rows] for i in range(0, len(token_ids), rows)]
        return torch.cat([self.log_likelihoods(chunk, answers) for chunk in chunks])

    @cached_property
    def reuses(self) -> bool:
        """Whether a text can be read once, and its cache serves all answers: it is tried on a text and two answers.

        Collective if the model is partitioned.
        """
        end = [self.tokenizer.eos_token_id]
        try:
            with evaluating(self.model):
                self.continued([end * 2], [end * 3, end * 2])
        except Exception:  # whatever the model raises: if it cannot read texts at all, it will raise that again
            return False
        return True

    @cached_property
    def caches(self) -> bool:
        """Whether answers can be generated with a cache: it is tried on two texts of unequal length, or on one if that
        is how the model reads them. If all layers of a model are recurrent, their cache has no length, and `generate`
        may ask for it. Without a cache it asks for no more than training does.

        Collective if the model is partitioned.
        """
        end = self.tokenizer.eos_token_id
        rows = [[end] * 3, [end] * 2][: 1 if self.repeats_prompt and not self.reuses else 2]
        try:
            with evaluating(self.model):
                self.continuation(rows, PROBED, None, GREEDY, cached=True)
        except Exception:  # whatever the model raises: if it is no matter of the cache, it will raise that again
            return False
        return True

    @torch.no_grad()
    def log_likelihoods(self, token_ids: Sequence[Sequence[int]], labels: Answers) -> Tensor:
        """(B, C) log p(answer | text) in float32. The text is read once, or once per label if its cache cannot be
        repeated."""
        if self.reuses:
            return self.continued(token_ids, labels)
        rows = [row for row in token_ids for _ in labels]
        return -self.answer_losses(self.answer_batch(rows, [*labels] * len(token_ids))).view(-1, len(labels))

    @torch.no_grad()
    def continued(self, token_ids: Sequence[Sequence[int]], labels: Answers) -> Tensor:
        """As `log_likelihoods`, from the cache of the texts."""
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

    def generated(self, token_ids: Sequence[Sequence[int]], labels: Answers) -> Tensor:
        """(B,) index of the label whose word equals the greedy answer; −1 if none does."""
        known = {word: index for index, word in enumerate(self.text(labels))}
        answers = self.generate(token_ids, max(map(len, labels)))
        return torch.tensor([known.get(answer.strip(), -1) for answer in answers], device=self.device)

    def generate(
        self, token_ids: Sequence[Sequence[int]], most: int, ends: Sequence[int] = (), how: DecodingConfig = GREEDY
    ) -> list[str]:
        """The texts of `say`."""
        return [each.text for each in self.say(token_ids, most, ends, how)]

    def say(
        self, token_ids: Sequence[Sequence[int]], most: int, ends: Sequence[int] = (), how: DecodingConfig = GREEDY
    ) -> list[Said]:
        """Answers of at most `most` tokens, without special tokens, generated as `how` says. An answer ends with the
        end-of-text token, with one of `ends`, or before a stop string."""
        return [each.said for each in self.speak(token_ids, most, ends, how)]

    @torch.no_grad()
    def speak(
        self,
        token_ids: Sequence[Sequence[int]],
        most: int,
        ends: Sequence[int] = (),
        how: DecodingConfig = GREEDY,
        pieces: Sequence[Pieces | None] = (),
    ) -> list[Spoken]:
        """As `say`, with the tokens of each answer. `pieces`, if given one per row, are told the texts while they are
        generated, or at the end if beams look for them.

        Decoders that `reuses` is false for read one text at a time: they take no padding on the left.
        """
        if self.repeats_prompt and not self.reuses:
            heard = pieces or [None] * len(token_ids)
            pairs = zip(token_ids, heard, strict=True)
            return [answer for row, own in pairs for answer in self.generated_from([row], most, ends, how, [own])]
        return self.generated_from(token_ids, most, ends, how, pieces)

    def generated_from(
        self,
        token_ids: Sequence[Sequence[int]],
        most: int,
        ends: Sequence[int],
        how: DecodingConfig,
        pieces: Sequence[Pieces | None] = (),
    ) -> list[Spoken]:
        """The answers to rows of one batch. Beams change places after each token, and only plain caches follow."""
        every, cached = sorted({self.tokenizer.eos_token_id, *ends}), self.caches and (how.beams == 1 or self.reuses)
        heard = () if how.beams > 1 else pieces
        tokens_BA = self.continuation(token_ids, most, every, how, cached=cached, pieces=heard)
        texts = self.tokenizer.batch_decode(tokens_BA, skip_special_tokens=True)
        answers = said(tokens_BA, texts, most, every, how.stop)
        for own, answer in zip(pieces, answers, strict=False):
            if own is not None:
                own.whole(answer.text)
        return [
            Spoken(answer, generated_tokens(row, every, how.stop if answer.text != text else (), self.written))
            for answer, text, row in zip(answers, texts, tokens_BA.tolist(), strict=True)
        ]

    def written(self, ids: list[int]) -> str:
        """Token ids as a string without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def continuation(
        self,
        token_ids: Sequence[Sequence[int]],
        most: int,
        ends: list[int] | None,
        how: DecodingConfig,
        *,
        cached: bool,
        pieces: Sequence[Pieces | None] = (),
    ) -> Tensor:
        """(B, A) tokens after the rows of one batch, A at most `most`."""
        batch = PADDED(token_ids, pad_id=self.pad_id, left=self.repeats_prompt).to(self.device)
        start = batch.ids.shape[1] if self.repeats_prompt else 1
        asked = asked_of(how, self.tokenizer, token_ids, start)
        if any(pieces):
            asked["stopping_criteria"].append(Heard(pieces, start, ends or ()))
        output: Tensor = self.model.generate(
            input_ids=batch.ids, attention_mask=batch.mask, max_new_tokens=most, pad_token_id=self.pad_id,
            eos_token_id=ends, use_cache=cached,
            synced_gpus=dist.is_initialized() and dist.get_world_size() > 1,
            **asked,
        )  # fmt: skip
        return output[:, start:]

    def text(self, ids: Tensor | Answers) -> list[str]:
        """Token ids as strings, without special tokens and outer white space."""
        return [word.strip() for word in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def shown(self, ids: list[int]) -> str:
        """A row's token ids as a string, with what a chat template writes around turns, and without what the tokenizer
        puts around every text, and outer white space."""
        before, after = self._frame.before, self._frame.after
        inner = ids[len(before) :] if tuple(ids[: len(before)]) == before else ids
        return str(self.tokenizer.decode(without_end(inner, after))).strip()

    @abstractmethod
    def read(self, token_ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Then]:
        """Reads the texts. Returns the logits (B, V) of the first answer token, and a function from the first tokens of
        B · classes answers (N, A) to the logits (N, A, V) of the token after each.

        Raises:
            NoCacheError: the texts' cache cannot be repeated.
        """


def answers_of(labels: Labels) -> Answers:
    """The labels of a text-to-text model."""
    assert isinstance(labels, list)
    return labels


def summed_nll(logits_BAV: Tensor, batch: Batch) -> Tensor:
    """(B,) −Σ log p of the answers' tokens, in float32."""
    assert batch.answers is not None
    return batch.sums(nn.functional.cross_entropy(logits_BAV.float().transpose(1, 2), batch.answers, reduction="none"))
