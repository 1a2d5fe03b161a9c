"""A run's rows as its model will see them: token ids, what is trained, lengths, cuts, and texts in two places."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, groupby
from typing import Any

import numpy as np

from orchestrator.config.run import RunConfig
from orchestrator.run.workers import all_rows, load_tasks
from trainers.data.examples import Example
from trainers.data.generative.preparing import digest
from trainers.data.generative.rows import question
from trainers.data.prompts import Prompt
from trainers.data.tasks import SPLITS, TaskData
from trainers.messages import GenerativeRows
from trainers.models.base import Backbone
from trainers.models.loading import check_model, load_reader
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import TaskExamples, examples_of

Piece = tuple[str, bool]


@dataclass(frozen=True)
class SplitView:
    """One split. Lengths are of rows before anything is cut, in tokens; `share_cut` of the rows lose their end,
    `shortened` rows the middle of their prompt, and `dropped` ones are left out. `share_trained` is of tokens."""

    rows: int
    tokens: int
    p50: int
    p95: int
    longest: int
    share_cut: float
    share_trained: float
    dropped: int = 0
    shortened: int = 0


@dataclass(frozen=True)
class TaskView:
    """One task. `shown` are its first training rows: the texts of neighbouring tokens, and whether they are trained."""

    name: str
    kind: str
    fingerprint: str
    max_length: int
    splits: dict[str, SplitView]
    warnings: list[str]
    shown: list[list[Piece]]


@dataclass(frozen=True)
class Overlap:
    """`rows` rows of one place ask what a row of another place asks."""

    first: str
    second: str
    rows: int


@dataclass(frozen=True)
class DataView:
    """All tasks of a run, in order."""

    tasks: list[TaskView]
    overlaps: list[Overlap] = field(default_factory=list)


def view_data(config: RunConfig, shown: int) -> DataView:
    """Reads and tokenises all tasks as a run would; `shown` rows of each are in the view.

    Raises:
        ConfigError: as the run would, for the same data.
    """
    reader = load_reader(config.model, check_model(config.model))
    data = load_tasks(config, say=lambda _: None)  # warnings are in the views
    tasks = [
        view_generative(task, rows.task.form, examples_of(reader, rows), reader, shown)
        if isinstance(rows, GenerativeRows)
        else view_classification(task, rows.prompt, reader.cut_at(rows.max_length), shown)
        for task, rows in zip(data, all_rows(config, data), strict=True)
    ]
    asked = {f"{task.name} {key}": [*questions(getattr(task, key))] for task in data for key in SPLITS}
    return DataView(tasks, [*overlaps(asked)])


def view_generative(data: TaskData, form: str, made: TaskExamples, reader: Backbone, rows: int) -> TaskView:
    """A generative task."""
    splits = {}
    for key, examples in made.splits.items():
        counts = examples.counts
        splits[key] = split_view(
            examples.raws, counts.tokens, counts.trained, counts.cut, counts.dropped, counts.shortened
        )
    shown = [[*pieces(example, reader.tokenizer)] for example in made.splits["train"][:rows]]
    return TaskView(data.name, form, data.fingerprint, made.max_length, splits, [*data.warnings], shown)


def view_classification(data: TaskData, prompt: Prompt, reader: Backbone, rows: int) -> TaskView:
    """A classification task. What is trained is the answer of a language model, and nothing of an encoder's row."""
    splits, says = {}, isinstance(reader, TextToText)
    answers = reader.encode_answers(data.labels, prompt) if isinstance(reader, TextToText) else [[]] * len(data.labels)
    for key in SPLITS:
        rows_of = getattr(data, key)
        texts = [prompt.before + text + prompt.after for text in rows_of["text"]]
        lengths = np.array([len(ids) for ids in reader.framed(texts, prompt)])
        kept = np.minimum(lengths, reader.max_length)
        trained = sum(len(answers[label]) for label in rows_of["label"])
        splits[key] = split_view(lengths, int(kept.sum()) + trained, trained, int((lengths > kept).sum()))
    part, decode = data.train[:rows], reader.tokenizer.decode
    read = reader.tokenize(part["text"], prompt, data.labels)
    shown = [
        [(decode(ids), False), (decode(answers[label]) if says else f" {data.labels[label]}", says)]
        for ids, label in zip(read, part["label"], strict=True)
    ]
    return TaskView(data.name, "classification", data.fingerprint, reader.max_length, splits, [*data.warnings], shown)


def split_view(lengths: np.ndarray, tokens: int, trained: int, cut: int, *left_out: int) -> SplitView:
    """The figures of a split whose rows have these lengths; `left_out` are dropped and shortened rows."""
    p50, p95 = (int(np.percentile(lengths, q, method="higher")) for q in (50, 95))
    rows = len(lengths)
    return SplitView(rows, tokens, p50, p95, int(lengths.max()), cut / rows, trained / max(tokens, 1), *left_out)


def pieces(example: Example, tokenizer: Any) -> Iterator[Piece]:
    """The texts of neighbouring tokens that are all trained, or all not."""
    tokens = [*zip(example.ids.tolist(), example.trained.tolist(), strict=True)]
    tokens += [(token, True) for token in example.answer.tolist()]
    for trained, run in groupby(tokens, key=lambda each: each[1]):
        yield tokenizer.decode([token for token, _ in run]), trained


def questions(rows: Any) -> Iterator[bytes]:
    """A digest per row of what it asks."""
    if "text" in rows.column_names:
        return (digest(text) for text in rows["text"])
    return (digest(question(json.loads(row))) for row in rows["row"])


def overlaps(asked: dict[str, list[bytes]]) -> Iterable[Overlap]:
    """Every two places in which the same is asked."""
    sets = {name: {*each} for name, each in asked.items()}
    for first, second in combinations(asked, 2):
        if shared := sets[first] & sets[second]:
            yield Overlap(first, second, sum(1 for each in asked[first] if each in shared))
