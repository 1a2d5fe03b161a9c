"""How a version answers requests: labels, or texts generated in a given way. Equal requests share a forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.errors import ConfigError, DataError
from orchestrator.delivery.predictor import Predictor
from orchestrator.delivery.repertoire import Asked, Known, columns_of, generative, source_row
from trainers.config import DecodingConfig
from trainers.data.examples import SourceRow
from trainers.data.sources import listed
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
        known = knows.asked(task if task or union else only(knows.classifying), union=union)
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
            texts = iter(by_length(asked, self.most, lambda rows: written(writer, rows), nobody))
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


def written(writer: Writer, rows: Sequence[list[int]]) -> list[Text]:
    """The answers to prompts, which are one batch."""
    spoken = writer.base.speak(rows, writer.most, writer.ends, writer.decoding)
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
    known = knows.choose(name or only(writing))
    generative(known)
    return known


def only(known: Sequence[Known]) -> str | None:
    """The name of the only task; None if there are several, or none."""
    return known[0].task.name if len(known) == 1 else None


def prompted(known: Known, asked: Asked, number: int, told: Piece | None = None) -> Prompted:
    """A prompt as a task asks it. Raises DataError if it does not fit."""
    return Prompted(source_row(known, columns_of(known.task), "prompt", number, asked), told)
