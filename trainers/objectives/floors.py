"""What a generative task's primary metric gives without a model: a score that is no better has shown nothing.

    constant    one answer for all rows: of common and of drawn training answers, the one that training rows score best
    copy        the prompt, or its first, longest or last line, whichever training rows score best
    nearest     the answer of the training row whose prompt is nearest by TF-IDF over words (cosine; idf = log N/df)

What is to be chosen is chosen on training rows, so that a floor is what anyone could have had before the test. No
answer is longer than the longest training answer, as with a model's. Metrics take time, so that a sample is read of
large splits, the same each time, a smaller one of long answers, and of answers of more than ANSWER_CHARACTERS the
beginning, the right ones' too. Test rows of a classification task have one floor, the share of the most frequent label
of the training rows.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainers.data.answers import Asked
from trainers.data.batching import drawn
from trainers.data.examples import references
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.generative.rows import Values, before_answer
from trainers.data.tasks import TaskData
from trainers.objectives.metrics import METRICS, WORD

if TYPE_CHECKING:
    from datasets import Dataset

TEST_ROWS, TRAIN_ROWS = 300, 2_000  # read at most
CANDIDATES, CHOOSING_ROWS = 20, 30  # constant answers tried, and the training rows that choose
EASY_CHARACTERS = 200  # mean length of an answer up to which so many rows are read; longer ones take fewer
READ_CHARACTERS = 2_000  # of a prompt's beginning, and of its end, when prompts are compared
ANSWER_CHARACTERS = 1_000  # of an answer's beginning


@dataclass(frozen=True)
class Floors:
    """Scores without a model on `rows` test rows, from 0 to 1, by how the answers were made."""

    rows: int
    scores: Mapping[str, float]


Answer = Callable[[Asked], str]


def floors_of(task: AnyTask, data: TaskData) -> Floors | None:
    """The floors of a task; None if it is judged by its loss."""
    if not isinstance(task, GenerativeTask):
        return majority(data)
    if task.by_loss:
        return None
    train, test = sample(data.train, TRAIN_ROWS), sample(data.test, TEST_ROWS)
    lengths = [len(each.references[0]) for each in train]
    share = min(1.0, EASY_CHARACTERS * len(train) / (sum(lengths) or 1))
    choosing, test = train[: math.ceil(CHOOSING_ROWS * share)], test[: max(50, math.ceil(TEST_ROWS * share))]
    judge = Judge(task.scored_by[0], max(lengths))
    answers: dict[str, Answer] = {
        "constant": judge.best(map(always, candidates(train, max(4, math.ceil(CANDIDATES * share)))), choosing),
        "copy": judge.best(COPIES, choosing),
        "nearest": Nearest(train),
    }
    return Floors(len(test), {how: judge.score(answer, test) for how, answer in answers.items()})


@dataclass(frozen=True)
class Judge:
    """Scores answers by a metric; they end after `longest` characters."""

    metric: str
    longest: int

    def score(self, answer: Answer, rows: Sequence[Asked]) -> float:
        """The mean over the rows."""
        metric = METRICS[self.metric]
        return sum(metric(answer(row)[: self.longest], row.references, row.prompt) for row in rows) / len(rows)

    def best(self, answers: Iterable[Answer], rows: Sequence[Asked]) -> Answer:
        """The one with the highest score, the first of equals."""
        return max(answers, key=lambda answer: self.score(answer, rows))


def majority(data: TaskData) -> Floors:
    """The share of test rows with the training rows' most frequent label, the first one of equally many."""
    counts, tested = np.bincount(data.train["label"]), np.asarray(data.test["label"])
    return Floors(len(tested), {"majority": float((tested == counts.argmax()).mean())})


def sample(split: "Dataset", most: int) -> list[Asked]:
    """At most so many rows of a split in a random order, the same each time."""
    return [asked(json.loads(row)) for row in split[drawn(len(split), most, 0).tolist()]["row"]]


def asked(values: Values) -> Asked:
    """A row in words, the answer that is trained on first; of a conversation what the last user turn before it says."""
    prompt = values.get("prompt")
    if not isinstance(prompt, str):
        turns = prompt or before_answer(values["messages"])
        said = [turn["content"] for turn in turns if turn["role"] == "user"]
        prompt = said[-1] if said and isinstance(said[-1], str) else ""
    return Asked(prompt, tuple(each[:ANSWER_CHARACTERS] for each in references(values)) or ("",))


# ---------------------------------------------------------------- answers


def always(answer: str) -> Answer:
    """The same answer to every row."""
    return lambda _: answer


def candidates(rows: Sequence[Asked], count: int) -> list[str]:
    """Answers of training rows: the most frequent ones, and as many of the rest, in the order of the rows."""
    answers = Counter(each.references[0] for each in rows)
    common = [answer for answer, _ in answers.most_common(count // 2)]
    return [*common, *(answer for answer in answers if answer not in common)][:count]


def lines(row: Asked) -> list[str]:
    """The lines of a prompt that are not empty; one at the least."""
    return [line.strip() for line in row.prompt.splitlines() if line.strip()] or [""]


COPIES: tuple[Answer, ...] = (
    lambda row: row.prompt,
    lambda row: lines(row)[0],
    lambda row: max(lines(row), key=len),
    lambda row: lines(row)[-1],
)


class Nearest:
    """The answer of the row, among those given, whose prompt is nearest; of equally near ones the first."""

    def __init__(self, rows: Sequence[Asked]) -> None:
        self.rows = rows
        counts = [words(row.prompt) for row in rows]
        seen = Counter(word for each in counts for word in each)
        self.idf = {word: math.log(len(rows) / count) for word, count in seen.items()}
        norms = [math.hypot(*(n * self.idf[word] for word, n in each.items())) or 1.0 for each in counts]
        held: dict[str, list[tuple[int, float]]] = {}
        for index, each in enumerate(counts):
            for word, n in each.items():
                held.setdefault(word, []).append((index, n * self.idf[word] ** 2 / norms[index]))
        self.held = {word: tuple(map(np.array, zip(*found, strict=True))) for word, found in held.items()}

    def __call__(self, row: Asked) -> str:
        """See the class."""
        near_N = np.zeros(len(self.rows))
        for word, n in words(row.prompt).items():
            if word in self.held:
                places, weights = self.held[word]
                near_N[places] += n * weights
        return self.rows[int(near_N.argmax())].references[0]


def words(text: str) -> Counter[str]:
    """How often each word occurs in the beginning and the end of a text."""
    kept = text if len(text) <= 2 * READ_CHARACTERS else f"{text[:READ_CHARACTERS]} {text[-READ_CHARACTERS:]}"
    return Counter(WORD.findall(kept.lower()))
