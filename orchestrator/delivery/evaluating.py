"""A version on rows whose answers are known: `orthoplex eval`. Scores are those that the run's own evaluation gives.

    precision = TP / (TP + FP),  recall = TP / (TP + FN),  F1 = 2·TP / (2·TP + FP + FN)     per label; 0 if it is 0 / 0

The macro F1 is the mean over the labels that rows have. A floor is what needs no model: of labels the share of the most
frequent one among these rows; of texts the best of copying the prompt, its first, its longest or its last line.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch.distributed as dist

from cluster.errors import DataError
from orchestrator.delivery.labelled_rows import Rows, labelled_rows
from orchestrator.delivery.predictor import Predictor
from orchestrator.delivery.repertoire import Known, columns_of, generative
from orchestrator.delivery.tables import read
from orchestrator.log.entry import JsonLike
from orchestrator.track.intervals import of_share
from trainers.data.answers import plain
from trainers.data.examples import RenderSettings
from trainers.data.generative.encoding import encode
from trainers.data.generative.rows import RowFault, canonical, written
from trainers.data.row_scores import rows_digest
from trainers.data.sources import listed
from trainers.messages import Score
from trainers.models.causal import Causal
from trainers.objectives.answering import Labelled, Told, nobody
from trainers.objectives.floors import COPIES, TEST_ROWS, Judge
from trainers.objectives.generation import AnsweredSplit
from trainers.training.evaluate import evaluate

Tables = Sequence[Path]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one label's answers are worth: shares, and the rows that have it."""

    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Worst:
    """A row that is answered badly: `value` is the probability of the right label, or the row's primary metric."""

    where: str
    row: int
    asked: str
    right: str
    answer: str | None
    value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class RowsScored:
    """Each row's own score, (n,) from 0 to 1 as in `trainers.data.row_scores`, and the digest of the rows."""

    values: np.ndarray
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A version's score on rows. `metrics` has the primary one first, `interval` its 95% interval; None if its loss
    judges the task and there is none. `confusion` has a row per right label and a column per answer, in the order of
    `labels`; the last column is no label. `notes` says what was left out, `scored` are the rows."""

    reference: str
    task: str
    rows: int
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None
    floor: Mapping[str, float]
    worst: Sequence[Worst]
    notes: Sequence[str] = ()
    macro_f1: float | None = None
    labels: Sequence[str] = ()
    classes: Mapping[str, Share] = field(default_factory=dict)
    confusion: Sequence[Sequence[int]] = ()
    scored: RowsScored | None = field(default=None, repr=False, compare=False)

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints: all but single rows' scores."""
        told = asdict(replace(self, scored=None))
        del told["scored"]
        return told


def evaluate_files(
    predictor: Predictor,
    paths: Tables,
    *,
    task: str | None = None,
    union: bool = False,
    columns: Mapping[str, str] | None = None,
    worst: int = 5,
    told: Told = nobody,
) -> Evaluation:
    """Scores a version on the rows of files.

    Args:
        predictor: the version.
        paths: tables of the task's columns, or of those that `columns` names in their place.
        task: see `Predictor.classify`. union: choose from the labels of all tasks.
        worst: how many rows that are answered badly are named.
        told: is told how many more rows are done.

    Raises:
        ConfigError: as `Predictor.classify`. DataError: a row has no right answer, or does not fit.
    """
    known = predictor.repertoire.asked(task, union=union)
    named = dict(columns or {})
    if known is not None and known.generative:
        return written_evaluation(predictor, known, paths, named, worst)
    return labelled_evaluation(predictor, known, paths, named, worst=worst, told=told)


# ---------------------------------------------------------------- labels


def labelled_evaluation(
    predictor: Predictor, known: Known | None, paths: Tables, columns: Mapping[str, str], *, worst: int, told: Told
) -> Evaluation:
    """The score of a classification task, or over the labels of all."""
    knows = predictor.repertoire
    words = (knows.union() if known is None else knows.labels_of(known)).words
    rows = labelled_rows([known] if known else knows.classifying, paths, columns, words)
    name = known.task.name if known else None
    found = predictor.classify(rows.texts, task=name, union=known is None, told=told)
    answers = [words.index(each.label) if each.label is not None else len(words) for each in found]
    confusion = np.zeros((len(words), len(words) + 1), dtype=int)
    np.add.at(confusion, (rows.right, answers), 1)
    correct, total = int(np.trace(confusion[:, : len(words)])), len(answers)
    classes = {word: share_of(confusion, index) for index, word in enumerate(words)}
    held = [each.f1 for each in classes.values() if each.rows]
    return Evaluation(
        reference=predictor.reference,
        task=name or "all tasks",
        rows=total,
        metrics={"accuracy": correct / total},
        interval=of_share(correct, total),
        floor={"own majority": max(Counter(rows.right).values()) / total},
        worst=[*worst_labelled(rows, words, found, worst)],
        notes=rows.notes,
        macro_f1=sum(held) / len(held),
        labels=words,
        classes=classes,
        confusion=confusion.tolist(),
        scored=RowsScored(
            values=np.equal(answers, rows.right).astype(np.float64),
            sha256=rows_digest(zip(rows.texts, (words[each] for each in rows.right), strict=True)),
        ),
    )


def share_of(confusion: np.ndarray, index: int) -> Share:
    """Precision, recall and F1 of one label."""
    hit, said, rows = int(confusion[index, index]), int(confusion[:, index].sum()), int(confusion[index].sum())
    return Share(
        precision=hit / said if said else 0.0,
        recall=hit / rows if rows else 0.0,
        f1=2 * hit / (said + rows) if said + rows else 0.0,
        rows=rows,
    )


def worst_labelled(rows: Rows, words: Sequence[str], found: Sequence[Labelled], most: int) -> Iterator[Worst]:
    """Wrong rows, those first whose right label has the least probability."""
    wrong = [place for place, each in enumerate(found) if each.label != words[rows.right[place]]]
    chances = {place: found[place].scores[words[rows.right[place]]] for place in wrong}
    for place in sorted(wrong, key=chances.__getitem__)[:most]:
        where, number = rows.places[place]
        right = words[rows.right[place]]
        yield Worst(
            where=where, row=number, asked=rows.texts[place], right=right, answer=found[place].label,
            value=chances[place],
        )  # fmt: skip


# ---------------------------------------------------------------- texts


def written_evaluation(
    predictor: Predictor, known: Known, paths: Tables, columns: Mapping[str, str], worst: int
) -> Evaluation:
    """The score of a generative task: all its metrics, over the rows as its own test split would be read."""
    task = generative(known)
    split, places, sha256 = answered_split(predictor, known, paths, {**columns_of(known.task), **columns})
    keep = range(len(split.examples)) if split.answered else ()
    with alone(), predictor.method.answering(known.index):
        found = evaluate(split, predictor.batch_size, keep=keep)
    order = np.argsort(found.values, kind="stable")[:worst].tolist()
    primary, score = task.scored_by[0], found.score
    return Evaluation(
        reference=predictor.reference,
        task=task.name,
        rows=score.rows,
        metrics=score.metrics,
        interval=score.interval,
        floor={} if task.by_loss else copied(split, primary),
        worst=[as_worst(split, places, row, found.answers.get(row), float(found.values[row])) for row in order],
        notes=cut_notes(split, score, len(found.cut)),
        scored=RowsScored(values=found.values, sha256=sha256),
    )


def answered_split(
    predictor: Predictor, known: Known, paths: Tables, columns: Mapping[str, str]
) -> tuple[AnsweredSplit, list[tuple[str, int]], str]:
    """The rows of files as the base reads them, where each is from, and their digest. However many answers are cut by
    `max_length`, a note says so."""
    from datasets import Dataset

    task, writer = generative(known).model_copy(update={"max_cut": 1.0}), predictor.writer(known)
    rows = [(written(plain_row(known, columns, *each)), each[1], each[0]) for each in read(known.task.name, paths)]
    if not rows:
        raise DataError(f"task {task.name}: {listed(map(str, paths))} has no rows; add some")
    table = Dataset.from_dict(dict(zip(("row", "number", "where"), map(list, zip(*rows, strict=True)), strict=True)))
    settings: RenderSettings = writer.renderer.settings
    examples = encode(task, table, predictor.base.tokenizer, settings)
    examples = replace(examples, counts=replace(examples.counts, ends=writer.ends))
    reading = predictor.base.reading if isinstance(predictor.base, Causal) else None
    split = AnsweredSplit(
        base=writer.base, examples=examples, metrics=task.scored_by, most=writer.most, reading=reading,
        decoding=writer.decoding,
    )  # fmt: skip
    kept = [rows[place] for place in examples.places.tolist()]
    return split, [(where, number) for _, number, where in kept], rows_digest((text,) for text, *_ in kept)


def plain_row(known: Known, columns: Mapping[str, str], where: str, number: int, raw: object) -> dict[str, object]:
    """A row with its answer in its plain form. Raises DataError if it does not fit the format."""
    try:
        return canonical(generative(known).form, columns, raw)
    except RowFault as fault:
        raise DataError(f"task {known.task.name}: {where} row {number}: {fault.found}; {fault.fix}") from None


@contextmanager
def alone() -> Iterator[None]:
    """A process group of this process, unless there is one: `evaluate` adds up over all ranks."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def copied(split: AnsweredSplit, metric: str) -> dict[str, float]:
    """What copying a part of the prompt scores, the best part for these rows, or a sample of many."""
    places = np.random.default_rng(0).permutation(len(split.examples))[:TEST_ROWS]
    rows = [split.in_words(row) for row in places.tolist()]
    longest = max(len(text) for row in rows for text in row.references)
    judge = Judge(metric, longest)
    return {"copy": max(judge.score(answer, rows) for answer in COPIES)}


def as_worst(
    split: AnsweredSplit, places: Sequence[tuple[str, int]], row: int, answer: str | None, value: float
) -> Worst:
    """A row of a generative task, as people read it."""
    asked, (where, number) = split.in_words(row), places[row]
    return Worst(
        where=where, row=number, asked=plain(asked.prompt), right=plain(next(iter(asked.references), "")),
        answer=answer, value=value,
    )  # fmt: skip


def cut_notes(split: AnsweredSplit, score: Score, cut: int) -> list[str]:
    """What was cut or left out."""
    counts = split.examples.counts
    told: list[tuple[int, Callable[[int], str]]] = [
        (counts.dropped, lambda n: f"{n} rows are longer than max_length before their answers begin, and left out"),
        (counts.shortened, lambda n: f"{n} prompts lost their middle"),
        (counts.cut, lambda n: f"{n} right answers are cut by max_length"),
        (cut, lambda n: f"{n} of {score.rows} answers end at {split.most} tokens"),
    ]
    return [say(number) for number, say in told if number]
