"""The interface between a kind of task and the code that trains, reads and scores it.

Shape suffixes: N rows of a split, B rows of a batch, K statistics of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
from torch import Tensor

from trainers.data.answers import Asked
from trainers.data.collate import Batch
from trainers.data.generative.config import AnyTask
from trainers.data.prompts import Prompt
from trainers.data.tasks import DataConfig, TaskData
from trainers.messages import Score
from trainers.models.base import Backbone
from trainers.models.tokens import Rows, Tokenized


class Judged(NamedTuple):
    """What is found out about B rows. `statistics` (B, K) add up to what `EncodedSplit.score` needs; the first is the
    row's own value, from 0 to 1. `answers` are the B generated texts, and `cut` the tokens after which each was cut,
    None if it ended before; both are empty if the objective generates none. `union` (B,) says whether each answer among
    the labels of several tasks is right; None if that was not asked. `labels` are the indices of the answered and of
    the right labels, (B,) each, if the objective chooses among labels."""

    statistics: Tensor
    answers: Sequence[str] = ()
    cut: Sequence[int | None] = ()
    union: Tensor | None = None
    labels: tuple[Tensor, Tensor] | None = None


class EncodedSplit(Protocol):
    """N rows of one split as one base reads them."""

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens per row, by which rows are grouped."""

    @property
    def terms(self) -> np.ndarray:
        """(N,) loss terms per row. Each term of an effective batch weighs the same."""

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows with these indices, (B,), as `losses` takes them, on the base's device."""

    def losses(self, batch: Batch) -> Tensor:
        """(B,) float32: the sum of each row's loss terms."""

    def judge(self, rows: np.ndarray, at_once: int) -> Judged:
        """Answers B rows. At most `at_once` texts per forward pass, and equally many passes for equally many rows."""

    def score(self, totals: np.ndarray, rows: int) -> Score:
        """The score of this many rows by the sums of their statistics, (K,) float64."""

    def in_words(self, row: int) -> Asked:
        """A row whose answer `judge` generates, as people read it."""

    def with_rows(self, others: Sequence[tuple[Self, np.ndarray]]) -> Self:
        """The same rows, and after them these rows of other tasks' splits of the same kind, to be trained on. Each
        row has the loss that it has in its own task."""

    def among(self, others: Sequence["EncodedSplit"]) -> Self:
        """The same rows, whose judgement also says whether they are answered rightly if the labels of these tasks are
        answers, too; itself if any text is an answer."""


class Objective(Protocol):
    """A kind of task: turns its files into rows, and rows into what a base is trained on and judged by."""

    def prepare(self, task: AnyTask, data: DataConfig, data_dir: Path | None, seed: int) -> TaskData:
        """Reads, cleans and splits a task. Raises DataError as `load_task` does."""

    def rows(self, task: AnyTask, data: TaskData, prompt: Prompt) -> Rows:
        """Prepared data as workers get them. `prompt` is for classification alone."""

    def check(self, base: Backbone, task: Rows) -> Rows | Tokenized:
        """Checks on the driver what workers would refuse. `base` has a model without weights. Returns the task, or what
        it is as tokens if the check makes them: workers take both.

        Raises:
            ConfigError: as `encode`, or a row cannot be read as it is meant; the message names the task.
        """

    def check_among(self, base: Backbone, task: Rows, others: Sequence[Rows]) -> None:
        """Checks on the driver, with such a base, what `EncodedSplit.among` would refuse.

        Raises:
            ConfigError: labels of the other tasks cannot answer the task's texts; the message names the task.
        """

    def encode(self, base: Backbone, task: Tokenized) -> Mapping[str, EncodedSplit]:
        """Every split of a task. Called before any task is in the weights.

        Raises:
            ConfigError: the base cannot serve this objective, or the task's words are not fit for it.
        """


@dataclass(frozen=True)
class Scored:
    """The score of n rows of a split, and each row's own value, (n,), from 0 to 1, in the order of the split; by row
    number the answers that were to be kept, and their metrics; of those that were cut, the tokens after which. `union`
    has each row's value among the labels of several tasks, (n,); None if that was not asked. `labels` are the indices
    of the answered and the right label of each row, (n, 2), if the objective chooses among labels."""

    score: Score
    values: np.ndarray
    answers: Mapping[int, str] = field(default_factory=dict)
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    cut: Mapping[int, int] = field(default_factory=dict)
    union: np.ndarray | None = None
    labels: np.ndarray | None = None

    @property
    def macro_f1(self) -> float | None:
        """See `macro_f1`; None if the objective does not choose among labels."""
        return None if self.labels is None else macro_f1(*self.labels.T)


def macro_f1(answered_N: np.ndarray, right_N: np.ndarray) -> float:
    """The mean, over the labels that N rows have, of F1 = 2 · rows answered rightly / (rows answered so + rows that are
    so). The arguments are indices of labels; any other number is no label."""
    found = []
    for label in np.unique(right_N):
        answered, right = answered_N == label, right_N == label
        found.append(2 * int((answered & right).sum()) / (int(answered.sum()) + int(right.sum())))
    return sum(found) / len(found)
