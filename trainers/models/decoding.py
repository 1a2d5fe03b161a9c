"""How an answer becomes of what a model says of the next token: greedily, by beams, or drawn.

A row is drawn with numbers of its own: they come from the seed, the tokens of its prompt, and how many tokens the
answer has so far. Batches, workers and other rows do not matter. Two rows with one prompt get one answer. After each
task a row is drawn with the same numbers as before it, so that a score changes with the model alone.

Shape suffixes: B rows, S tokens so far, V vocabulary.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import TopKLogitsWarper, TopPLogitsWarper

from trainers.config import DecodingConfig

COLDEST = 1e-30  # by less logits are not divided: 32 bits would not hold them
TAIL = 8  # tokens beyond the bytes of a stop string that are read again after each token
UNFINISHED = "\ufffd"  # what a tokenizer writes of a character whose last bytes are still to come
JOINED = 3  # words at most that a tokenizer makes one of
Piece = Callable[[str], Any]


@dataclass(frozen=True, eq=False)
class Drawn(LogitsProcessor):
    """Leaves one token per row, drawn from what the settings leave of the distribution.

    token_ids: the B prompts. start: tokens before the answers.
    """

    token_ids: Sequence[Sequence[int]]
    how: DecodingConfig
    start: int

    @cached_property
    def generators(self) -> list[np.random.Generator]:
        """One per row."""
        return [np.random.Generator(np.random.Philox(key=key(self.how.seed, row))) for row in self.token_ids]

    @cached_property
    def cuts(self) -> LogitsProcessorList:
        """What removes tokens, in the order that transformers has."""
        found: list[LogitsProcessor] = [TopKLogitsWarper(self.how.top_k)] if self.how.top_k else []
        return LogitsProcessorList([*found, *([TopPLogitsWarper(self.how.top_p)] if self.how.top_p < 1 else [])])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) logits → 0 at the first token whose cumulated probability is beyond the row's number, else −∞."""
        kept_BV = self.cuts(input_ids, scores.float() / max(self.how.temperature, COLDEST))
        total_BV = kept_BV.double().softmax(-1).cumsum(-1)
        drawn_B1 = torch.tensor([[each.random()] for each in self.generators], dtype=torch.float64).to(scores.device)
        beyond_BV = total_BV > drawn_B1.clamp_max(1 - 1e-12) * total_BV[:, -1:]
        token_B1 = beyond_BV.int().argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, token_B1, 0.0)


def key(seed: int, row: Sequence[int]) -> int:
    """128 bits that tell prompts and seeds apart."""
    told = np.array([seed, *row], dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(told, digest_size=16).digest(), "little")


@dataclass(frozen=True, eq=False)
class Stops(StoppingCriteria):
    """Ends a row once its answer has a stop string. What stands in the prompt does not count.

    start: tokens before the answers.
    """

    tokenizer: Any
    stop: tuple[str, ...]
    start: int

    def __call__(self, input_ids: Tensor, scores: object, **_: Any) -> Tensor:  # noqa: ARG002
        """(B, S) → (B,) bool."""
        ends = self.found(input_ids[:, max(self.start, input_ids.shape[1] - self.window) :])
        for row in ends.nonzero().flatten().tolist():  # the tail alone may read otherwise
            ends[row] = self.found(input_ids[row : row + 1, self.start :])[0]
        return ends

    @property
    def window(self) -> int:
        """Tokens in which a stop string ends: each has at least a byte, but for some special ones."""
        return max(len(each.encode()) for each in self.stop) + TAIL

    def found(self, ids_BS: Tensor) -> Tensor:
        """(B,) whether the tokens have a stop string."""
        texts = self.tokenizer.batch_decode(ids_BS, skip_special_tokens=True)
        return torch.tensor([any(each in text for each in self.stop) for text in texts], device=ids_BS.device)


class UnheardError(Exception):
    """Raised by who is told a piece: nobody needs the rest of the answer."""


class Pieces:
    """Tells the text of one answer in pieces, in order: together they are the text, which ends before a stop string.

    What may still change is held back: half a character, the beginning of a stop string, and the last words if the
    tokenizer takes out spaces before what follows them, as in `do n ' t`.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], told: Piece) -> None:
        self.tokenizer, self.stop, self.told = tokenizer, stop, told
        self.cleans = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        self.text = ""
        self.gone = False  # whether nobody needs the rest

    def so_far(self, ids: Sequence[int]) -> None:
        """The answer has these tokens now."""
        self._tell(self.settled(self.tokenizer.decode(ids, skip_special_tokens=True)))

    def whole(self, text: str) -> None:
        """The answer is this text, and ends."""
        self._tell(text)

    def settled(self, text: str) -> str:
        """The part of the text that no further token changes."""
        kept = until(text, self.stop)
        if kept != text:
            return kept
        kept = kept.rstrip(UNFINISHED)
        kept = " ".join(kept.split(" ")[:-JOINED]) if self.cleans else kept
        held = (n for each in self.stop for n in range(1, len(each)) if kept.endswith(each[:n]))
        return kept[: len(kept) - max(held, default=0)]

    def _tell(self, text: str) -> None:
        if self.gone or text == self.text or not text.startswith(self.text):
            return
        more, self.text = text[len(self.text) :], text
        try:
            self.told(more)
        except UnheardError:
            self.gone = True


class Heard(StoppingCriteria):
    """Gives the `Pieces` of each row the tokens of its answer after each step of `generate`. A row whose rest nobody
    needs ends; the others go on.

    pieces: one per row, None for a row that nobody listens to. start: tokens before the answers. ends: tokens that end
    an answer; what stands behind one is padding.
    """

    def __init__(self, pieces: Sequence[Pieces | None], start: int, ends: Sequence[int]) -> None:
        self.pieces, self.start, self.ends = pieces, start, frozenset(ends)

    def __call__(self, input_ids: Tensor, scores: object, **_: Any) -> Tensor:  # noqa: ARG002
        """(B, S) → (B,) bool: whether nobody needs more of a row."""
        gone = []
        for own, row in zip(self.pieces, input_ids[:, self.start :].tolist(), strict=True):
            if own is not None:
                own.so_far(row[: next((n for n, token in enumerate(row) if token in self.ends), len(row))])
            gone.append(own is not None and own.gone)
        return torch.tensor(gone, device=input_ids.device)


class Said(NamedTuple):
    """An answer, and the number of tokens after which it was cut, since no more were allowed; None if it ended."""

    text: str
    cut: int | None


def said(tokens_BA: Tensor, texts: Sequence[str], most: int, ends: Sequence[int], stop: Sequence[str]) -> list[Said]:
    """B answers of their tokens, (B, A) with A at most `most`, and of the `texts` of these. An answer has ended if it
    has one of the tokens `ends` or a stop string, or if even the longest is shorter than `most`."""
    ended_B = torch.isin(tokens_BA, tokens_BA.new_tensor([*ends])).any(1) | (tokens_BA.shape[1] < most)
    answers = [until(text, stop) for text in texts]
    return [
        Said(answer, None if ended or answer != text else most)
        for answer, text, ended in zip(answers, texts, ended_B.tolist(), strict=True)
    ]


class Spoken(NamedTuple):
    """An answer, and the tokens that were generated for it, what ends it included."""

    said: Said
    tokens: list[int]


def generated_tokens(
    row: list[int], ends: Sequence[int], stop: Sequence[str], text: Callable[[list[int]], str]
) -> list[int]:
    """The tokens of a row of `generate` without the padding behind them: up to the first that ends the answer, or that
    completes a stop string."""

    def stops(count: int) -> bool:
        written = text(row[:count])
        return any(each in written for each in stop)

    ended = next((count for count, token in enumerate(row, start=1) if token in ends), len(row))
    stopped = bisect_left(range(1, len(row) + 1), True, key=stops) + 1 if stop else len(row)
    return row[: min(ended, stopped)]


def until(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((place for each in stop if (place := text.find(each)) >= 0), default=len(text))]


def asked_of(how: DecodingConfig, tokenizer: Any, token_ids: Sequence[Sequence[int]], start: int) -> dict[str, Any]:
    """What `generate` is asked for, beyond tokens and lengths. Drawing leaves one token, and that is taken greedily."""
    drawn = [Drawn(token_ids, how, start)] if how.temperature else []
    stops = [Stops(tokenizer, how.stop, start)] if how.stop else []
    return {
        "do_sample": False,
        "num_beams": how.beams,
        "logits_processor": LogitsProcessorList(drawn),
        "stopping_criteria": StoppingCriteriaList(stops),
    }
