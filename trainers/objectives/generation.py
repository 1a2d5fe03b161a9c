"""A text answers a text. The loss is −Σ log p of the trained tokens; the score is the mean of the primary metric.

Shape suffixes as in `base`; N trained tokens of a batch, M metrics of answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cluster.errors import ConfigError
from trainers.data.cleaning import DataConfig
from trainers.data.collate import Batch
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.generative.encoding import Examples
from trainers.data.generative.preparing import SPLITS, prepare_task
from trainers.data.lines import Lines, in_lines
from trainers.data.prompts import Prompt
from trainers.data.tasks import TaskData
from trainers.messages import GenerativeRows, Score
from trainers.models.base import Backbone
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import Rows, TaskExamples, Tokenized, examples_of
from trainers.models.trained_tokens import gives_head, keeps_apart, token_losses
from trainers.objectives.metrics import METRICS

OF_LOSS = ("nll", "perplexity")  # of the model's own probabilities, without an answer


@dataclass(frozen=True)
class Reading:
    """How a decoder reads rows. `plain`: its logits are its head's alone. `packs`: several rows may share a line."""

    plain: bool
    packs: bool

    @classmethod
    def of(cls, base: Backbone) -> "Reading":
        """As probes on the model find it. Collective if the model is partitioned."""
        end = base.tokenizer.eos_token_id
        other = (end + 1) % (base.embeddings or end + 2)
        return cls(gives_head(base.model, end), keeps_apart(base.model, (end, other)))


@dataclass(frozen=True, eq=False, kw_only=True)
class AnsweredSplit:
    """N rows of one split. `metrics` has the primary one first; `most` tokens are generated at most; `reading` is None
    for an encoder-decoder."""

    base: TextToText
    examples: Examples
    metrics: tuple[str, ...]
    most: int
    reading: Reading | None

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens per row, of an encoder-decoder the text's."""
        return self.examples.lengths

    @cached_property
    def terms(self) -> np.ndarray:
        """(N,) trained tokens per row."""
        return self.examples.trained if self.reading is None else predicted(self.examples)

    def batch(self, rows: np.ndarray) -> Batch:
        """See EncodedSplit. A decoder's rows share lines as long as the split's longest row, if the model can tell
        them apart."""
        picked = [self.examples[i] for i in rows]
        if self.reading is None:
            return self.base.answer_batch(
                [each.ids.tolist() for each in picked], [each.answer.tolist() for each in picked]
            )
        ids, trained = [each.ids for each in picked], [each.trained for each in picked]
        capacity = int(self.lengths.max()) if self.reading.packs else None
        return in_lines(ids, trained, self.base.pad_id, capacity).to(self.base.device)

    def losses(self, batch: Batch) -> Tensor:
        """−Σ log p of each row's trained tokens."""
        if self.reading is None:
            return self.base.answer_losses(batch)
        assert isinstance(batch, Lines)
        return batch.sums(token_losses(self.base.model, batch, plain=self.reading.plain))

    def judge(self, rows: np.ndarray, at_once: int) -> Tensor:
        """(B, 1 + M + 2): the row's own value, each metric of its answer, −Σ log p and trained tokens if they are asked
        for. The row's own value is its primary metric, or the geometric mean of its tokens' probabilities."""
        columns = [torch.zeros(len(rows), 0, dtype=torch.float64)]
        if answered := [name for name in self.metrics if name not in OF_LOSS]:
            columns.append(self.answers_judged(rows, answered, at_once))
        if len(answered) < len(self.metrics):
            losses_B = torch.cat([self.losses(self.batch(part)) for part in parts(rows, at_once)]).double().cpu()
            terms_B = torch.from_numpy(self.terms[rows]).double()
            columns.append(torch.stack([losses_B, terms_B], 1))
            own = torch.exp(-losses_B / terms_B) if self.metrics[0] in OF_LOSS else columns[1][:, 0]
        else:
            own = columns[1][:, 0]
        return torch.cat([own.unsqueeze(1), *columns], 1).to(self.base.device)

    def answers_judged(self, rows: np.ndarray, metrics: Sequence[str], at_once: int) -> Tensor:
        """(B, M) metrics of the generated answers."""
        found = []
        for row, answer in zip(rows, self.answers(rows, at_once), strict=True):
            example = self.examples[int(row)]
            asked = self.base.text([example.ids[: example.prompt_length].tolist()])[0]
            found.append([METRICS[name](answer, example.references, asked) for name in metrics])
        return torch.tensor(found, dtype=torch.float64)

    def answers(self, rows: np.ndarray, at_once: int) -> list[str]:
        """The greedy answers to these rows."""
        asked = [self.examples[int(i)].ids[: self.examples[int(i)].prompt_length].tolist() for i in rows]
        ends = self.examples.counts.ends
        return [
            answer
            for start in range(0, len(asked), at_once)
            for answer in self.base.generate(asked[start : start + at_once], self.most, ends)
        ]

    def score(self, totals: np.ndarray) -> Score:
        """The mean of each metric, and the sum of the primary one over the rows."""
        rows = len(self.examples)
        answered = [name for name in self.metrics if name not in OF_LOSS]
        means = {name: float(total) / rows for name, total in zip(answered, totals[1:], strict=False)}
        if len(answered) < len(self.metrics):
            nll = float(totals[-2] / totals[-1])
            means |= {
                name: {"nll": nll, "perplexity": float(np.exp(nll))}[name] for name in self.metrics if name in OF_LOSS
            }
        correct = None if self.metrics[0] in OF_LOSS else float(totals[0])
        return Score(correct, rows, {name: means[name] for name in self.metrics})


class Generation:
    """See the head of this module."""

    def prepare(self, task: AnyTask, data: DataConfig, data_dir: Path | None, seed: int) -> TaskData:
        """See `trainers.data.generative.preparing`."""
        assert isinstance(task, GenerativeTask)
        return prepare_task(task, data, data_dir, seed)

    def rows(self, task: AnyTask, data: TaskData, prompt: Prompt) -> GenerativeRows:  # noqa: ARG002
        """The rows in their plain form, and how they become tokens."""
        assert isinstance(task, GenerativeTask)
        tables = {key: getattr(data, key).data.table for key in SPLITS}
        return GenerativeRows(data.name, task, data.fingerprint, tables)

    def check(self, base: Backbone, task: Rows) -> None:
        """See Objective: every row as workers will read it."""
        assert isinstance(task, GenerativeRows)
        check_positions(base, task.name, examples_of(base, task))

    def encode(self, base: Backbone, task: Tokenized) -> dict[str, AnsweredSplit]:
        """The splits with what probes find out about the model."""
        assert isinstance(task, TaskExamples) and isinstance(base, TextToText)
        reading = None if base.closes_text else Reading.of(base)
        most = longest_answer(task.splits["train"])
        return {
            key: AnsweredSplit(base=base, examples=each, metrics=task.metrics, most=most, reading=reading)
            for key, each in task.splits.items()
        }


def parts(rows: np.ndarray, at_once: int) -> list[np.ndarray]:
    """The rows in parts of at most `at_once`."""
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]


def predicted(examples: Examples) -> np.ndarray:
    """(N,) trained tokens per row that have a token before them."""
    first = examples.trained_T[examples.offsets[:-1]]
    return examples.trained - first


def longest_answer(examples: Examples) -> int:
    """Tokens of the longest trained answer: as many are generated at most."""
    if len(examples.answers_T):
        return int(np.diff(examples.answer_offsets).max())
    return int((examples.lengths - examples.prompt_lengths).max())


def check_positions(base: Backbone, task: str, splits: dict[str, Examples]) -> None:
    """Raises ConfigError if prompt and answer together may go beyond the model's positions."""
    config = getattr(base.model, "config", None)
    most = getattr(config, "max_position_embeddings", None)
    if base.closes_text or not most:
        return
    asked = max(int(each.prompt_lengths.max()) for each in splits.values())
    needed = max([asked + longest_answer(splits["train"]), *(int(each.lengths.max()) for each in splits.values())])
    if needed > most:
        raise ConfigError(
            f"task {task}: rows and answers take up to {needed} tokens, beyond the model's {most} positions; lower the "
            "task's max_length"
        )
