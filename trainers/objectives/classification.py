"""One of the task's own label words answers a text. The loss is −Σ log p of the right one; the score counts rows whose
likeliest, or generated, label is the right one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from cluster.errors import ConfigError
from trainers.data.answers import Asked
from trainers.data.collate import Batch
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.prompts import Prompt
from trainers.data.tasks import SPLITS, DataConfig, TaskData, load_task
from trainers.messages import Score, TaskRows
from trainers.models.base import PLAIN, Backbone, Labels, side_by_side
from trainers.models.checks import check_length
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import Rows, TokenIds, Tokenized, TokenizedTask
from trainers.objectives.base import EncodedSplit, Judged


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassifiedSplit:
    """N texts, their label indices (N,), loss terms per row (N,), and the label words as `base` encodes them.

    `words` are the label words, `prompt` and `max_length` what texts are read with. `union` are the words of several
    tasks, if rows are to be judged among them, too. `bounds` (N, 2) are the first and last + 1 of the labels that each
    row's own task has, if `labels` are those of several tasks.
    """

    base: Backbone
    token_ids: TokenIds
    targets: np.ndarray
    terms: np.ndarray
    labels: Labels
    words: tuple[str, ...] = ()
    prompt: Prompt = PLAIN
    max_length: int | None = None
    union: Labels | None = None
    bounds: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens per text."""
        return self.token_ids.lengths

    def batch(self, rows: np.ndarray) -> Batch:
        """See EncodedSplit."""
        batch = self.base.batch([self.token_ids[i] for i in rows], self.targets[rows], self.labels)
        return batch if self.bounds is None else replace(batch, among=self.base.to_device(self.bounds[rows]))

    def losses(self, batch: Batch) -> Tensor:
        """−Σ log p of each row's label."""
        return self.base.losses(batch, self.labels)

    def judge(self, rows: np.ndarray, at_once: int) -> Judged:
        """(B, 1): whether the predicted label, among the task's own, is the right one."""
        token_ids, targets_B = [self.token_ids[i] for i in rows], self.base.to_device(self.targets[rows])
        if self.union is None:
            own_B = self.base.predict(token_ids, self.labels, at_once)
            return Judged((own_B == targets_B).unsqueeze(1), labels=(own_B, targets_B))
        own_B, union_B = self.base.predict_among(token_ids, [self.labels, self.union], at_once)
        return Judged((own_B == targets_B).unsqueeze(1), union=union_B == targets_B, labels=(own_B, targets_B))

    def score(self, totals: np.ndarray, rows: int) -> Score:
        """Correct rows."""
        return Score(int(totals[0]), rows)

    def in_words(self, row: int) -> Asked:
        """See EncodedSplit: no text is generated."""
        raise NotImplementedError(f"row {row}: its answer is one of the label words")

    def with_rows(self, others: Sequence[tuple["ClassifiedSplit", np.ndarray]]) -> "ClassifiedSplit":
        """See EncodedSplit."""
        parts = [(self, np.arange(len(self.targets))), *others]
        starts = np.cumsum([0, *(len(each.labels) for each, _ in parts)])
        spans = [np.tile(starts[i : i + 2], (len(rows), 1)) for i, (_, rows) in enumerate(parts)]
        return replace(
            self,
            token_ids=TokenIds.joined([(each.token_ids, rows) for each, rows in parts]),
            targets=np.concatenate(
                [each.targets[rows] + start for (each, rows), start in zip(parts, starts, strict=False)]
            ),
            terms=np.concatenate([each.terms[rows] for each, rows in parts]),
            labels=side_by_side([each.labels for each, _ in parts]),
            bounds=np.concatenate(spans),
        )

    def among(self, others: Sequence[EncodedSplit]) -> "ClassifiedSplit":
        """See EncodedSplit."""
        tasks = [self, *(each for each in others if isinstance(each, ClassifiedSplit))]
        base = self.base.cut_at(self.max_length)
        union = base.union([each.words for each in tasks], [each.labels for each in tasks], self.prompt)
        return replace(self, union=union)


@contextmanager
def naming(task: str) -> Iterator[None]:
    """Puts a task's name before the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"task {task}: {error}") from None


class Classification:
    """See the head of this module."""

    def prepare(self, task: AnyTask, data: DataConfig, data_dir: Path | None, seed: int) -> TaskData:
        """See `load_task`."""
        assert not isinstance(task, GenerativeTask)
        return load_task(task, data, data_dir, seed)

    def rows(self, task: AnyTask, data: TaskData, prompt: Prompt) -> TaskRows:
        """Texts and label indices per split."""
        splits = {key: getattr(data, key) for key in SPLITS}
        columns = {key: (list(split["text"]), list(split["label"])) for key, split in splits.items()}
        return TaskRows(data.name, data.labels, columns, prompt, max_length=task.max_length)

    def check(self, base: Backbone, task: Rows) -> Rows:
        """See Objective: label words that the base tells apart, and rows that can be answered with them."""
        assert isinstance(task, TaskRows)
        with naming(task.name):
            base = base.cut_at(task.max_length)
            if task.max_length is not None:
                check_length(base.model, task.max_length, base.limited_by)
            base.check_labels(task.labels, task.prompt)
            base.check_texts([text for texts, _ in task.splits.values() for text in texts], task.labels, task.prompt)
        return task

    def check_among(self, base: Backbone, task: Rows, others: Sequence[Rows]) -> None:
        """See Objective. An encoder compares any words."""
        assert isinstance(task, TaskRows)
        words = [task.labels, *(each.labels for each in others if isinstance(each, TaskRows))]
        if isinstance(base, TextToText):
            with naming(task.name):
                base.cut_at(task.max_length).union(words, [], task.prompt)

    def encode(self, base: Backbone, task: Tokenized) -> dict[str, ClassifiedSplit]:
        """The label words as the base alone encodes them, for all splits at once."""
        assert isinstance(task, TokenizedTask)
        with naming(task.name):
            labels = base.cut_at(task.max_length).encode_labels(task.labels, task.prompt)
        units = base.units(labels)
        return {
            key: ClassifiedSplit(
                base=base,
                token_ids=split.token_ids,
                targets=split.targets,
                terms=units[split.targets],
                labels=labels,
                words=task.labels,
                prompt=task.prompt,
                max_length=task.max_length,
            )
            for key, split in task.splits.items()
        }
