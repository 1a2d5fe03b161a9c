"""The interface between a kind of task and the code that trains, reads and scores it.

Shape suffixes: N rows of a split, B rows of a batch, K statistics of a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from trainers.data.collate import Batch
from trainers.data.generative.config import AnyTask
from trainers.data.prompts import Prompt
from trainers.data.tasks import DataConfig, TaskData
from trainers.messages import Score
from trainers.models.base import Backbone
from trainers.models.tokens import Rows, Tokenized


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

    def judge(self, rows: np.ndarray, at_once: int) -> Tensor:
        """(B, K) numbers per row that add up to what `score` needs; the first is the row's own value, from 0 to 1.
        At most `at_once` texts per forward pass, and equally many passes for equally many rows."""

    def score(self, totals: np.ndarray) -> Score:
        """The score of the split by the sums over its rows of what `judge` gives, (K,) float64."""


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

    def encode(self, base: Backbone, task: Tokenized) -> Mapping[str, EncodedSplit]:
        """Every split of a task. Called before any task is in the weights.

        Raises:
            ConfigError: the base cannot serve this objective, or the task's words are not fit for it.
        """


@dataclass(frozen=True)
class Scored:
    """The score of a split, and each row's own value, (N,), from 0 to 1."""

    score: Score
    values: np.ndarray
