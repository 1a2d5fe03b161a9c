"""A text answers a text. The loss is −Σ log p of the trained tokens; the score is the mean of the primary metric.

Shape suffixes as in `base`; N trained tokens of a batch, M metrics of answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cluster.errors import ConfigError
from trainers.config import GREEDY, DecodingConfig
from trainers.data.answers import Asked
from trainers.data.cleaning import DataConfig
from trainers.data.collate import Batch
from trainers.data.generative.config import OF_LOSS, AnyTask, GenerativeTask, of_answers
from trainers.data.generative.encoding import Examples
from trainers.data.generative.preparing import prepare_task
from trainers.data.lines import Lines, in_lines
from trainers.data.prompts import Prompt
from trainers.data.tasks import SPLITS, TaskData
from trainers.messages import GenerativeRows, Score
from trainers.models.base import Backbone
from trainers.models.capabilities import most_positions
from trainers.models.causal import Causal
from trainers.models.decoding import Said
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import Rows, TaskExamples, Tokenized, examples_of
from trainers.models.trained_tokens import Reading, token_losses
from trainers.objectives.base import EncodedSplit, Judged
from trainers.objectives.metrics import METRICS


@dataclass(frozen=True, eq=False, kw_only=True)
class AnsweredSplit:
    """N rows of one split. `metrics` has the primary one first. At most `most` tokens are generated, as `decoding`
    says. `reading` is None for an encoder-decoder."""

    base: TextToText
    examples: Examples
    metrics: tuple[str, ...]
    most: int
    reading: Reading | None
    decoding: DecodingConfig = GREEDY

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

    @cached_property
    def answered(self) -> tuple[str, ...]:
        """The metrics of answers."""
        return of_answers(self.metrics)

    def judge(self, rows: np.ndarray, at_once: int) -> Judged:
        """(B, 1 + M + 2): the row's own value, each metric of its answer, −Σ log p and trained tokens if they are asked
        for. The row's own value is its primary metric, or the geometric mean of its tokens' probabilities."""
        said = self.answers(rows, at_once) if self.answered else []
        answers = [each.text for each in said]
        answers_BM = self.answers_judged(rows, answers)
        losses_BK = answers_BM[:, :0] if len(self.answered) == len(self.metrics) else self.losses_judged(rows, at_once)
        by_loss = self.metrics[0] in OF_LOSS
        own_B = torch.exp(-losses_BK[:, 0] / losses_BK[:, 1]) if by_loss else answers_BM[:, 0]
        return Judged(
            torch.cat([own_B.unsqueeze(1), answers_BM, losses_BK], 1).to(self.base.device),
            answers,
            [each.cut for each in said],
        )

    def losses_judged(self, rows: np.ndarray, at_once: int) -> Tensor:
        """(B, 2) −Σ log p and trained tokens."""
        losses_B = torch.cat([self.losses(self.batch(part)) for part in parts(rows, at_once)]).double().cpu()
        return torch.stack([losses_B, torch.from_numpy(self.terms[rows]).double()], 1)

    def answers_judged(self, rows: np.ndarray, answers: Sequence[str]) -> Tensor:
        """(B, M) metrics of the generated answers; nothing is generated if there are none."""
        if not self.answered:
            return torch.zeros(len(rows), 0, dtype=torch.float64)
        asked = self.base.text([self.asked(row) for row in rows])
        found = [
            [METRICS[name](answer, self.examples[int(row)].references, source) for name in self.answered]
            for row, answer, source in zip(rows, answers, asked, strict=True)
        ]
        return torch.tensor(found, dtype=torch.float64)

    def in_words(self, row: int) -> Asked:
        """The prompt with the marks of its turns, and the references."""
        return Asked(prompt=self.base.shown(self.asked(row)), references=tuple(self.examples[row].references))

    def with_rows(self, others: Sequence[tuple["AnsweredSplit", np.ndarray]]) -> "AnsweredSplit":
        """See EncodedSplit."""
        parts = [(self.examples, np.arange(len(self.examples))), *((each.examples, rows) for each, rows in others)]
        return replace(self, examples=Examples.joined(parts))

    def among(self, others: Sequence[EncodedSplit]) -> "AnsweredSplit":  # noqa: ARG002
        """See EncodedSplit: any text is an answer."""
        return self

    def asked(self, row: int) -> list[int]:
        """The tokens of a row from which an answer is generated."""
        example = self.examples[int(row)]
        ids: list[int] = example.ids[: example.prompt_length].tolist()
        return ids

    def answers(self, rows: np.ndarray, at_once: int) -> list[Said]:
        """The answers to these rows, as they are generated."""
        ends = self.examples.counts.ends
        batches = ([self.asked(row) for row in part] for part in parts(rows, at_once))
        return [answer for asked in batches for answer in self.base.say(asked, self.most, ends, self.decoding)]

    def score(self, totals: np.ndarray, rows: int) -> Score:
        """The mean of each metric, and the sum of the primary one over the rows."""
        means = {name: float(total) / rows for name, total in zip(self.answered, totals[1:], strict=False)}
        if len(self.answered) < len(self.metrics):
            means["nll"] = float(totals[-2] / totals[-1])
            means["perplexity"] = float(np.exp(means["nll"]))
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

    def check(self, base: Backbone, task: Rows) -> TaskExamples:
        """See Objective: every row as workers read it."""
        assert isinstance(task, GenerativeRows)
        made = examples_of(base, task)
        check_positions(base, made)
        return made

    def check_among(self, base: Backbone, task: Rows, others: Sequence[Rows]) -> None:
        """See Objective: any text is an answer."""

    def encode(self, base: Backbone, task: Tokenized) -> dict[str, AnsweredSplit]:
        """The splits with what probes find out about the model."""
        assert isinstance(task, TaskExamples) and isinstance(base, TextToText)
        reading = base.reading if isinstance(base, Causal) else None
        base.find_out(generates=bool(of_answers(task.metrics)))
        most = most_generated(task)
        return {
            key: AnsweredSplit(
                base=base, examples=each, metrics=task.metrics, most=most, reading=reading, decoding=task.decoding
            )
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
    """Tokens of the longest trained answer."""
    if len(examples.answers_T):
        return int(np.diff(examples.answer_offsets).max())
    return int((examples.lengths - examples.prompt_lengths).max())


def most_generated(task: TaskExamples) -> int:
    """Tokens that an answer has at most."""
    return task.decoding.max_new_tokens or longest_answer(task.splits["train"])


def check_positions(base: Backbone, task: TaskExamples) -> None:
    """Raises ConfigError if prompts or answers, of a decoder both together, may go beyond the model's positions."""
    splits = task.splits
    said, most = most_generated(task), most_positions(base.model)
    if not base.closes_text:
        asked = max(int(each.prompt_lengths.max()) for each in splits.values())
        check_longest(task, "rows and answers", [asked + said, *longest(splits, "lengths")], most)
        return
    check_longest(task, "prompts", longest(splits, "lengths"), most)
    answers = most_positions(base.model, answers=True)
    check_longest(task, "answers", [said, *longest(splits, "trained")], answers, " for answers")


def longest(splits: Mapping[str, Examples], what: str) -> list[int]:
    """The largest of each split's `lengths` or other numbers per row."""
    return [int(getattr(each, what).max()) for each in splits.values()]


def check_longest(task: TaskExamples, what: str, tokens: Sequence[int], most: int | None, kind: str = "") -> None:
    """Raises ConfigError if one of these numbers of tokens is beyond the model's positions."""
    if most and max(tokens) > most:
        raise ConfigError(
            f"task {task.name}: {what} take up to {max(tokens)} tokens, beyond the model's {most} positions{kind}; "
            f"lower the task's max_length{' or decoding.max_new_tokens' * bool(task.decoding.max_new_tokens)}"
        )
