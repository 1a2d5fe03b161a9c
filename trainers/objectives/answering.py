"""Answers to new texts by the model as it stands: a label with the probability of each, or a text.

What is answered does not depend on the order of the rows. Batches hold rows of like length, the shortest first, as
`trainers.training.evaluate` has them: of the same rows, with batches of the same size, labels get the same bits.

Shape suffixes: B rows of a batch, C labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from cluster.errors import DataError
from trainers.config import DecodingConfig
from trainers.data.examples import Example, Refused, Renderer, SourceRow, TooLong
from trainers.data.prompts import Prompt
from trainers.models.base import Backbone, Labels
from trainers.models.capabilities import most_positions
from trainers.models.decoding import Piece, Pieces, Spoken
from trainers.models.text_to_text import TextToText

A = TypeVar("A")
Told = Callable[[int], Any]


def nobody(_: int) -> None:
    """Is told how many rows are answered."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The label of a text, its probability among the labels, and that of each label. A text without characters has no
    label; neither has one whose generated answer is none (`model.scoring: generation`), but it has scores."""

    label: str | None = None
    probability: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A generated answer, log p of its tokens under the model, what ends it included, and why it ends: `stop` for an
    end token or a stop string, `length` for the limit of tokens."""

    answer: str
    logprob: float
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Classifier:
    """Labels texts with `words`. `labels` are these as the base alone encodes them; `base` cuts texts as their task
    does."""

    base: Backbone
    words: tuple[str, ...]
    prompt: Prompt
    labels: Labels

    @classmethod
    def of(cls, base: Backbone, words: Sequence[str], prompt: Prompt, max_length: int | None) -> "Classifier":
        """To be made before any task is in the weights. Raises ConfigError as `Backbone.encode_labels`."""
        cut_so = base.cut_at(max_length)
        labels = cut_so.encode_labels(words, prompt)
        return cls(base=cut_so, words=tuple(words), prompt=prompt, labels=labels)

    def answer(self, texts: Sequence[str], at_once: int, told: Told = nobody) -> list[Labelled]:
        """The label of each text; at most `at_once` texts per forward pass."""
        stripped = [text.strip() for text in texts]
        places = [place for place, text in enumerate(stripped) if text]
        rows = self.base.tokenize([stripped[place] for place in places], self.prompt, self.words)
        found = dict(zip(places, by_length(rows, at_once, partial(self.labelled, at_once), told), strict=True))
        return [found.get(place, Labelled()) for place in range(len(texts))]

    @torch.no_grad()
    def labelled(self, at_once: int, rows: Sequence[list[int]]) -> list[Labelled]:
        """The labels of B rows of token ids, which are one batch of at most `at_once`."""
        scores_BC = self.base.scores(rows, self.labels, at_once)
        generates = self.base.scoring == "generation"
        chosen_B = self.base.predict(rows, self.labels, at_once) if generates else scores_BC.argmax(-1)
        return [self.named(*each) for each in zip(chosen_B.tolist(), scores_BC.softmax(-1).tolist(), strict=True)]

    def named(self, chosen: int, shares: Sequence[float]) -> Labelled:
        """A row's label; −1 is none."""
        scores = dict(zip(self.words, shares, strict=True))
        if chosen < 0:
            return Labelled(scores=scores)
        return Labelled(label=self.words[chosen], probability=shares[chosen], scores=scores)


@dataclass(frozen=True, eq=False, kw_only=True)
class Writer:
    """Answers rows with texts of at most `most` tokens, which one of the tokens `ends` may end too."""

    base: TextToText
    renderer: Renderer
    most: int
    ends: tuple[int, ...]
    decoding: DecodingConfig

    def answer(self, rows: Sequence[SourceRow], at_once: int, told: Told = nobody) -> list[Written]:
        """The answer to each row; at most `at_once` rows per forward pass.

        Raises:
            DataError: a row cannot be asked; the message names it and the fix.
        """
        return by_length(self.asked(rows), at_once, self.written, told)

    def asked(self, rows: Sequence[SourceRow]) -> list[list[int]]:
        """The tokens from which each row is answered. Raises as `answer`."""
        made = self.renderer.render(rows)
        return [self.prompt_of(row, each) for row, each in zip(rows, made, strict=True)]

    def prompt_of(self, row: SourceRow, made: Example | Refused) -> list[int]:
        """The tokens of one row's prompt."""
        if isinstance(made, TooLong):
            raise DataError(f"{made.found}; shorten it, or say too_long: cut, which takes out the middle of prompts")
        if isinstance(made, Refused):
            raise made
        ids: list[int] = made.ids[: made.prompt_length].tolist()
        if not self.base.closes_text and made.prompt_length == len(made.ids):  # an earlier turn's answer was left
            raise DataError(
                f"{self.renderer.place(row)}: its turns fill max_length {len(ids)}, which would cut the last of them; "
                "leave out the first ones"
            )
        if self.positions and len(ids) + self.most > self.positions:
            raise DataError(
                f"{self.renderer.place(row)}: its {len(ids)} tokens and an answer of {self.most} are beyond the "
                f"model's {self.positions} positions; shorten it, or lower max_new_tokens"
            )
        return ids

    @cached_property
    def positions(self) -> int | None:
        """The positions that prompt and answer share; None if they are not limited, or not shared."""
        return None if self.base.closes_text else most_positions(self.base.model)

    def stream(self, row: SourceRow, told: Piece) -> Written:
        """The answer to one row; `told` gets its text in pieces while it is generated. Raises as `answer`."""
        return self.written(self.asked([row]), [Pieces(self.base.tokenizer, self.decoding.stop, told)])[0]

    @torch.no_grad()
    def written(self, rows: Sequence[list[int]], pieces: Sequence[Pieces | None] = ()) -> list[Written]:
        """The answers to B prompts, which are one batch; `pieces`, if given, are told the texts as they come."""
        spoken = self.base.speak(rows, self.most, self.ends, self.decoding, pieces)
        losses_B = self.base.answer_losses(self.base.answer_batch(rows, [each.tokens for each in spoken]))
        return [as_written(*each) for each in zip(spoken, losses_B.tolist(), strict=True)]


def as_written(spoken: Spoken, nll: float) -> Written:
    """A generated answer with the nll of its tokens."""
    said = spoken.said
    return Written(answer=said.text, logprob=-nll, finish_reason="stop" if said.cut is None else "length")


def by_length(
    rows: Sequence[list[int]], at_once: int, answer: Callable[[Sequence[list[int]]], Sequence[A]], told: Told
) -> list[A]:
    """The answers to rows of token ids, in the order of the rows; `told` gets the size of each batch that is done."""
    order = np.argsort([len(row) for row in rows], kind="stable").tolist()
    found: dict[int, A] = {}
    for start in range(0, len(order), at_once):
        part = order[start : start + at_once]
        found |= zip(part, answer([rows[place] for place in part]), strict=True)
        told(len(part))
    return [found[place] for place in range(len(rows))]
