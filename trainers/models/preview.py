"""What a task's rows look like to the model, before anything runs: their lengths in tokens, and one row in full."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.data.prompts import Prompt
from trainers.data.sources import quiet
from trainers.messages import TaskRows
from trainers.models.base import Backbone
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import Rows, TaskExamples, Tokenized

MOST_ROWS, MOST_CHARACTERS = 5_000, 2_000_000  # tokenised per task; of a larger one a sample stands for all
WARNED_SHARE = 0.1  # of rows that are cut


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens per row in its prompt (of a generative task in the whole row), special tokens included, before any cut at
    `max_length`. `shortened` rows lose the middle of their prompt; of `unknown` ones half the tokens or more stand for
    what the tokenizer has no token for.

    `rows` is the number of all rows of the task. `measured` of them were tokenised; the other numbers are of those.
    """

    rows: int
    measured: int
    p50: int
    p95: int
    max: int
    cut: int
    max_length: int
    shortened: int = 0
    unknown: int = 0

    @property
    def share_cut(self) -> float:
        """Share of the measured rows that is longer than `max_length`."""
        return self.cut / self.measured

    @property
    def warnings(self) -> list[str]:
        """A line if many rows are cut, and one if the model cannot read many."""
        of = f"{self.measured:,}" if self.measured == self.rows else f"{self.measured:,} sampled"
        told = [
            (self.cut, f"are longer than max_length {self.max_length} and are cut; raise model.max_length or the "
             "task's own, or shorten the texts"),
            (self.unknown, "are mostly unknown tokens, which say nothing: the tokenizer lacks their script or their "
             "characters; use a model that has them"),
        ]  # fmt: skip
        return [
            f"{rows / self.measured:.1%} of its rows ({rows:,} of {of}) {what}"
            for rows, what in told
            if rows / self.measured > WARNED_SHARE
        ]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row as the model reads it. `answer_tokens` is empty if the model does not answer with tokens."""

    text: str
    tokens: list[str]
    ids: list[int]
    label: str
    answer_tokens: list[str]


def preview(base: Backbone, task: Rows | Tokenized) -> tuple[Lengths, Example]:
    """The lengths of a checked task's rows, and its first one."""
    if isinstance(task, TaskRows):
        cut_so = base.cut_at(task.max_length)
        return lengths(cut_so, task), example(cut_so, task)
    assert isinstance(task, TaskExamples)
    splits = task.splits
    raws = np.concatenate([each.raws for each in splits.values()])
    shortened = sum(each.counts.shortened for each in splits.values())
    first = next(iter(splits.values()))[0]
    cut = sum(each.counts.cut for each in splits.values())
    row, answer = first.ids, first.answer if len(first.answer) else first.ids[first.prompt_length :]
    return counted(raws, len(raws), cut, task.max_length, shortened=shortened), Example(
        text=base.tokenizer.decode(row[: first.prompt_length]), tokens=named(base.tokenizer, row.tolist()),
        ids=row.tolist(), label=base.tokenizer.decode(answer), answer_tokens=named(base.tokenizer, answer.tolist()),
    )  # fmt: skip


def counted(counts: np.ndarray, rows: int, cut: int, max_length: int, **further: int) -> Lengths:
    """Lengths of these tokens per row; `further` are `shortened` and `unknown`."""
    half, most = np.percentile(counts, (50, 95), method="inverted_cdf")
    return Lengths(
        rows=rows, measured=len(counts), p50=int(half), p95=int(most), max=int(counts.max()), cut=cut,
        max_length=max_length, **further,
    )  # fmt: skip


def lengths(base: Backbone, task: TaskRows) -> Lengths:
    """Lengths of all rows, or of a sample if there are more than MOST_ROWS or MOST_CHARACTERS."""
    texts = [text for split, _ in task.splits.values() for text in split]
    chosen = sample(texts, task.prompt)
    with quiet():
        rows = base.framed([task.prompt.before + text + task.prompt.after for text in chosen], task.prompt)
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    unknown = sum(2 * ids.count(base.tokenizer.unk_token_id) >= len(ids) for ids in rows)
    return counted(counts, len(texts), int((counts > base.max_length).sum()), base.max_length, unknown=unknown)


def sample(texts: Sequence[str], prompt: Prompt) -> list[str]:
    """The texts, or as many of them in a fixed random order as the bounds let pass, at least one."""
    around = len(prompt.before) + len(prompt.after)
    if len(texts) <= MOST_ROWS and sum(map(len, texts)) + around * len(texts) <= MOST_CHARACTERS:
        return list(texts)
    order = np.random.default_rng(0).permutation(len(texts))[:MOST_ROWS]
    ends = np.cumsum([len(texts[i]) + around for i in order])
    kept = max(1, int(np.searchsorted(ends, MOST_CHARACTERS, side="right")))
    return [texts[i] for i in order[:kept]]


def example(base: Backbone, task: TaskRows) -> Example:
    """The first row of the first split."""
    texts, targets = next(iter(task.splits.values()))
    (ids,) = base.tokenize(texts[:1], task.prompt, task.labels)
    label = task.labels[targets[0]]
    answer = base.encode_answers(task.labels, task.prompt)[targets[0]] if isinstance(base, TextToText) else []
    return Example(
        text=task.prompt.before + texts[0] + task.prompt.after, tokens=named(base.tokenizer, ids), ids=list(ids),
        label=label, answer_tokens=named(base.tokenizer, answer),
    )  # fmt: skip


def named(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The tokens with these ids, as the tokenizer writes them."""
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
