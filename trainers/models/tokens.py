"""Tasks as token ids, as training and evaluation read them. All workers of a node share them without a copy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex, overload

import numpy as np

from trainers.config import GREEDY, DecodingConfig
from trainers.data.examples import settings_for
from trainers.data.generative.encoding import Examples, encode_task, joined_rows
from trainers.data.generative.refusals import TooLong
from trainers.data.prompts import Prompt
from trainers.data.tasks import TaskData
from trainers.messages import GenerativeRows, TaskRows
from trainers.models.base import PLAIN, Backbone
from trainers.models.capabilities import most_positions


@dataclass(frozen=True, eq=False)
class TokenIds(Sequence[list[int]]):
    """Rows of token ids of unequal length: row i is `flat[offsets[i]:offsets[i + 1]]`.

    There are two arrays, so that Ray maps them from its object store. A row becomes a list when it is read.
    """

    flat: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "TokenIds":
        """The same rows: `flat` is int32, `offsets` (N + 1,) int64."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        flat = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(lengths.sum()))
        return cls(flat, np.concatenate([[0], np.cumsum(lengths)]))

    @classmethod
    def joined(cls, parts: Sequence[tuple["TokenIds", np.ndarray]]) -> "TokenIds":
        """These rows of each of the parts, one after the other."""
        flat, offsets = joined_rows([(each.flat, each.offsets, rows) for each, rows in parts])
        return cls(flat, offsets)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens per row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        row: list[int] = self.flat[self.offsets[place] : self.offsets[place + 1]].tolist()
        return row


@dataclass(frozen=True)
class TokenizedSplit:
    """Rows of one split: token ids, and per row a target, which is an index into the words of the task."""

    token_ids: TokenIds
    targets: np.ndarray


@dataclass(frozen=True)
class TokenizedTask:
    """One task as an objective encodes it: the words that targets index, each split as token ids, and the prompt around
    each text. `max_length` is the task's own, if it has one."""

    name: str
    labels: tuple[str, ...]
    splits: dict[str, TokenizedSplit]
    objective: str = "classification"
    prompt: Prompt = PLAIN
    max_length: int | None = None


def tokenize(
    backbone: Backbone, texts: Sequence[str], targets: Sequence[int], prompt: Prompt, words: Sequence[str] = ()
) -> TokenizedSplit:
    """Token ids of every text in its prompt, cut at the base's `max_length`; `words` are those that may answer."""
    return TokenizedSplit(TokenIds.of(backbone.tokenize(texts, prompt, words)), np.asarray(targets, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class TaskExamples:
    """One generative task as its objective encodes it; `metrics` has the primary one first. Longer rows than
    `max_length` are cut. Answers are generated as `decoding` says."""

    name: str
    splits: dict[str, Examples]
    metrics: tuple[str, ...]
    max_length: int
    objective: str = "generation"
    decoding: DecodingConfig = GREEDY


Rows = TaskRows | GenerativeRows
Tokenized = TokenizedTask | TaskExamples


def tokenize_task(backbone: Backbone, task: Rows | Tokenized) -> Tokenized:
    """Every split of a task as token ids; a task that is tokenised already is returned unchanged.

    Raises:
        DataError: a row of a generative task is refused, see `trainers.data.examples`.
    """
    if isinstance(task, TokenizedTask | TaskExamples):
        return task
    if isinstance(task, GenerativeRows):
        return examples_of(backbone, task)
    base = backbone.cut_at(task.max_length)
    splits = {split: tokenize(base, *rows, task.prompt, task.labels) for split, rows in task.splits.items()}
    return TokenizedTask(task.name, task.labels, splits, task.objective, task.prompt, task.max_length)


def examples_of(backbone: Backbone, rows: GenerativeRows) -> TaskExamples:
    """Every split of a generative task as this base reads it."""
    from datasets import Dataset

    settings = settings_for(
        rows.task, backbone.tokenizer, backbone.max_length, vocabulary=backbone.embeddings,
        encoder_decoder=backbone.closes_text,
    )  # fmt: skip
    tables = {key: Dataset(table) for key, table in rows.splits.items()}
    data = TaskData(name=rows.name, labels=(), warnings=(), fingerprint=rows.fingerprint, **tables)
    try:
        splits = encode_task(rows.task, data, backbone.tokenizer, settings)
    except TooLong as error:
        raise error.need(error.needed, positions_for(error, backbone), error.share) from None
    decoding = rows.task.decoding or GREEDY
    return TaskExamples(rows.name, splits, rows.task.scored_by, settings.max_length, decoding=decoding)


def positions_for(error: TooLong, backbone: Backbone) -> int | None:
    """The positions that the model has for what is too long; a reader of tokens alone knows none."""
    return None if backbone.model is None else most_positions(backbone.model, answers=error.kind == "answer_cut")
