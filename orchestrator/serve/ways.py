"""How a version answers requests: labels, or texts generated in a given way. Equal requests share a forward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.errors import ConfigError, DataError
from orchestrator.delivery.predictor import Predictor
from orchestrator.delivery.repertoire import Asked, Known, columns_of, generative, source_row
from trainers.config import DecodingConfig
from trainers.data.examples import SourceRow
from trainers.data.sources import listed
from trainers.models.decoding import Pieces
from trainers.objectives.answering import Labelled, Writer, by_length, nobody

Piece = Callable[[str], None]


@dataclass(frozen=True)
class Labelling:
    """Labels texts by one version, of a task or over the labels of all."""

    predictor: Predictor
    task: str | None
    union: bool = False

    @classmethod
    def of(cls, predictor: Predictor, task: str | None, union: bool) -> "Labelling":
        """Raises ConfigError if that cannot be asked of the version."""
        knows = predictor.repertoire
        known = knows.asked(task, union=True) if union else chosen(predictor, task, knows.classifying)
        if known is not None:
            knows.labels_of(known)
        return cls(predictor, None if known is None else known.task.name, union)

    @property
    def most(self) -> int:
        """See Way."""
        return self.predictor.batch_size

    def answer(self, items: Sequence[str]) -> list[Labelled]:
        """See Way."""
        return self.predictor.classify(items, task=self.task, union=self.union)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A generated answer, why it ends, and the tokens of prompt and answer."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Prompted:
    """A prompt, and who is told its answer in pieces."""

    row: SourceRow
    told: Piece | None = None


@dataclass(frozen=True)
class Writing:
    """Answers prompts by one version as one task does, with at most `most_tokens` tokens as `decoding` says."""

    predictor: Predictor
    task: str
    decoding: DecodingConfig
    most_tokens: int

    @property
    def most(self) -> int:
        """See Way."""
        return self.predictor.batch_size

    def answer(self, items: Sequence[Prompted]) -> list[Text | Exception]:
        """See Way."""
        known = self.predictor.repertoire.tasks[self.task]
        writer = replace(self.predictor.writer(known), decoding=self.decoding, most=self.most_tokens)
        with self.predictor.method.answering(known.index):
            made = prompts_of(writer, [item.row for item in items])
            asked = [ids for ids in made if isinstance(ids, list)]
            told = {id(ids): heard(writer, item.told) for ids, item in zip(made, items, strict=True)}
            texts = iter(by_length(asked, self.most, lambda rows: written(writer, rows, told), nobody))
            return [next(texts) if isinstance(ids, list) else ids for ids in made]


def prompts_of(writer: Writer, rows: Sequence[SourceRow]) -> list[list[int] | Exception]:
    """The tokens of each prompt, or why it cannot be asked."""
    made: list[list[int] | Exception] = []
    for row, rendered in zip(rows, writer.renderer.render(rows), strict=True):
        try:
            made.append(writer.prompt_of(row, rendered))
        except DataError as error:
            made.append(error)
    return made


def heard(writer: Writer, told: Piece | None) -> Pieces | None:
    """Who is told an answer in pieces, if anybody is."""
    return None if told is None else Pieces(writer.base.tokenizer, writer.decoding.stop, told)


def written(writer: Writer, rows: Sequence[list[int]], told: Mapping[int, Pieces | None]) -> list[Text]:
    """The answers to prompts, which are one batch. `told` has who is told each, by the identity of the prompt."""
    pieces = [told[id(row)] for row in rows]
    spoken = writer.base.speak(rows, writer.most, writer.ends, writer.decoding, pieces)
    return [
        Text(
            text=each.said.text, finish_reason="stop" if each.said.cut is None else "length", prompt_tokens=len(row),
            completion_tokens=len(each.tokens),
        )
        for row, each in zip(rows, spoken, strict=True)
    ]  # fmt: skip


def asked_task(predictor: Predictor, name: str | None) -> Known:
    """The generative task that is asked; without a name the only one. Raises ConfigError if it cannot be told."""
    knows = predictor.repertoire
    writing = [known for known in knows.tasks.values() if known.generative]
    if name is None and not writing:
        raise ConfigError(f"{knows.reference} chooses labels ({listed(knows.tasks)}); ask /v1/classify")
    known = chosen(predictor, name, writing)
    generative(known)
    return known


def chosen(predictor: Predictor, name: str | None, fitting: Sequence[Known]) -> Known:
    """The task of that name; without one the only one that fits, or the newest if all have the same labels.

    Raises:
        ConfigError: there is no such task, or several could be meant.
    """
    knows = predictor.repertoire
    if name is not None or not fitting:
        return knows.choose(name)
    if len(fitting) == 1:
        return fitting[0]
    try:
        return knows.choose(None)
    except ConfigError:
        names = [known.task.name for known in fitting]
        union = "" if fitting[0].generative or knows.run.adapter.needs_task else ', or "union": true'
        raise ConfigError(
            f'task: {knows.reference} has learned {listed(names)}; name one, as in "task": "{names[0]}"{union}'
        ) from None


def prompted(known: Known, asked: Asked, key: str, number: int, told: Piece | None = None) -> Prompted:
    """A prompt, the `number`th from 1 under `key`, as a task asks it. Raises DataError if it is empty, or does not
    fit."""
    if isinstance(asked, str) and not asked.strip():
        raise DataError(f"{key}: {f'number {number} ' if number > 1 else ''}has no characters; write what is asked")
    return Prompted(source_row(known, columns_of(known.task), key, number, asked), told)
