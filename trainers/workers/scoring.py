"""Scores tasks as an order asks; keeps answers for people to read, and scores of single rows."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from trainers.config import TrainConfig
from trainers.data.answers import ANSWERS, KeptAnswer, write_answers
from trainers.data.batching import drawn
from trainers.data.row_scores import ROWS, RowScores, write_row_scores
from trainers.failures import during
from trainers.messages import NOT_SCORED, Order, Progress, Score
from trainers.objectives.base import EncodedSplit
from trainers.training.evaluate import evaluate
from trainers.training.stage import Report


@dataclass(kw_only=True)
class Scoring:
    """The scores of one order. `tasks` has the splits of every task, by its name; `answering` makes the model answer as
    it does for a task. `kept` collects answers, and `rows` the scores of single rows if the order asks for them.
    `union` has the scores of test splits among the labels of all tasks that are learned, by task."""

    order: Order
    tasks: Sequence[tuple[str, Mapping[str, EncodedSplit]]]
    train: TrainConfig
    answering: Callable[[int], AbstractContextManager[None]]
    report: Report
    kept: list[KeptAnswer] = field(default_factory=list)
    rows: list[RowScores] = field(default_factory=list)
    union: dict[int, Score] = field(default_factory=dict)

    def scores(self, split: str, tasks: Sequence[int], learned: int) -> list[Score]:
        """Scores of tasks, by their indices, on `split`, also of those that are not trained yet, after `learned` tasks.
        The last one is that of the last of `tasks`; what is between is NOT_SCORED. Collective."""
        found = [NOT_SCORED] * (max(tasks, default=-1) + 1)
        for number, index in enumerate(tasks, start=1):
            with during(f"evaluate {split}, task {index + 1}"), self.answering(index):
                found[index] = self.score(split, index, learned)
            self.report(Progress(self.order.index, f"evaluate {split}", number, len(tasks)))
        return found

    def score(self, key: str, index: int, learned: int) -> Score:
        """The score of a task; keeps answers of its test split, and the scores of single rows."""
        name, _ = self.tasks[index]
        split = self.split(key, index, learned)
        rows = drawn(len(split.lengths), self.order.rows, self.train.seed)
        keep = rows[: self.order.keep_answers].tolist() if key == "test" else []
        found = evaluate(split, self.train.eval_batch_size, rows, keep)
        if found.union is not None:
            self.union[index] = Score(int(found.union.sum()), len(found.union))
        if self.order.keep_rows:
            scored = RowScores(
                task=name, split=key, learned=learned, rows=np.sort(rows), values=found.values, union=found.union
            )
            self.rows.append(scored)
        for row in keep if found.answers else ():
            asked = split.in_words(row)
            self.kept.append(
                KeptAnswer(
                    task=name, row=row, learned=learned, prompt=asked.prompt, references=asked.references,
                    answer=found.answers[row], metrics=found.metrics[row], cut=found.cut.get(row),
                )
            )  # fmt: skip
        return replace(found.score, macro_f1=found.macro_f1) if self.order.macro_f1 else found.score

    def split(self, key: str, index: int, learned: int) -> EncodedSplit:
        """A split of a task, judged among the labels of all tasks learned too, if the order asks for that and the task
        is one of these."""
        _, own = self.tasks[index]
        if not self.order.union or key != "test" or index >= learned:
            return own[key]
        return own[key].among([splits[key] for _, splits in self.tasks[:learned] if splits is not own])

    @property
    def union_row(self) -> list[Score]:
        """`union` up to the last task that has a score in it, as `scores` gives them."""
        return [self.union.get(index, NOT_SCORED) for index in range(max(self.union, default=-1) + 1)]

    def write(self, folder: Path) -> None:
        """Writes answers and row scores into a folder; no file of what there is none of."""
        if self.kept:
            write_answers(folder / ANSWERS, self.kept)
        if self.rows:
            write_row_scores(folder / ROWS, self.rows)
