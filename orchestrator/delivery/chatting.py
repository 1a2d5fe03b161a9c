"""A chat with adapters: one or several answer the same messages, each with its own turns. Knows no terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from cluster.errors import ConfigError
from orchestrator.delivery.export import base_of, gpu_or_cpu, load_base
from orchestrator.delivery.predictor import Predictor
from orchestrator.delivery.repertoire import Asked, Known, Repertoire, generative
from orchestrator.registry.references import Version
from trainers.config import GREEDY, DecodingConfig
from trainers.data.generative.config import GenerativeTask
from trainers.data.generative.encoding import CONVERSATIONS
from trainers.data.sources import listed
from trainers.models.base import Backbone
from trainers.objectives.answering import Labelled, Written

Turn = dict[str, str]
Answer = Written | Labelled


class Answers(Protocol):
    """What a chat asks of a `Predictor`."""

    repertoire: Repertoire

    def stream(
        self, prompt: Asked, told: Callable[[str], Any], *, task: str | None, decoding: DecodingConfig | None
    ) -> Written:
        """As `Predictor.stream`."""

    def classify(self, texts: Sequence[str], *, task: str | None) -> list[Labelled]:
        """As `Predictor.classify`."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Adapters, each loaded once, over bases that they share. Updates stand beside a base's weights, so that another
    adapter costs no other base. `model` and `device` are those of `Predictor`."""

    model: str | None
    device: str | None
    say: Callable[[str], None]
    bases: dict[str, Backbone] = field(default_factory=dict)
    adapters: dict[str, Predictor] = field(default_factory=dict)

    def predictor(self, version: Version) -> Predictor:
        """The version over its base. Raises as `Predictor`."""
        if version.reference not in self.adapters:
            self.adapters[version.reference] = Predictor(version, base=self.base_of(version), say=self.say)
        return self.adapters[version.reference]

    def base_of(self, version: Version) -> Backbone:
        """The version's base, which is loaded unless another version stands on it."""
        config = base_of(version, self.model)
        key = config.model_dump_json(exclude={"prompt", "scoring", "max_length"})
        if key not in self.bases:
            self.bases[key] = load_base(config, version, gpu_or_cpu(self.device))
        return self.bases[key]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How answers are generated, if not as the task's `decoding` says."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def over(self, decoding: DecodingConfig | None) -> DecodingConfig | None:
        """The task's decoding with what is set here; beams make way for a temperature. Raises ConfigError if a value is
        out of its bounds, or says how samples are drawn and none are."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        if not given:
            return decoding
        held = (decoding or GREEDY).model_dump()
        if self.temperature == 0:
            held |= {key: getattr(GREEDY, key) for key in ("top_k", "top_p", "seed")}
        elif self.temperature:
            held["beams"] = 1
        try:
            return DecodingConfig.model_validate(held | given)
        except ValidationError as error:
            first = error.errors()[0]
            key = f"--{str(first['loc'][0]).replace('_', '-')}: " if first["loc"] else ""
            raise ConfigError(f"{key}{first['msg'].removeprefix('Value error, ')}") from None


@dataclass
class Seat:
    """An adapter that takes part: which of its tasks answers, and its turns so far."""

    predictor: Answers
    known: Known
    turns: list[Turn] = field(default_factory=list)

    @property
    def reference(self) -> str:
        """team/run@vN."""
        return self.predictor.repertoire.reference

    @property
    def converses(self) -> bool:
        """Whether its task has conversations of several turns."""
        return isinstance(self.known.task, GenerativeTask) and self.known.task.form in CONVERSATIONS

    @property
    def told(self) -> str:
        """How it answers, in a line."""
        task = f"{self.reference}, task {self.known.task.name}"
        if not self.known.generative:
            return (
                f"{task}: chooses a label ({listed(self.known.description.labels)}); each message is a text of its own"
            )
        return f"{task}: {'conversations' if self.converses else 'single prompts; earlier messages are not read'}"


@dataclass
class Chat:
    """Who answers, and under which settings. `opened` loads an adapter by its reference, once each."""

    opened: Callable[[str], Answers]
    settings: Settings = Settings()
    system: str | None = None
    seats: list[Seat] = field(default_factory=list)

    def use(self, references: Sequence[str], task: str | None = None) -> None:
        """These adapters answer from now on, as `task`. One that answered already keeps its turns; others take over
        those of the first. `@v2` and `@ALIAS` are of the first one's run.

        Raises:
            ConfigError: there is no such adapter, or it has no such task.
        """
        before = {seat.reference: seat for seat in self.seats}
        going_on = self.seats[0] if self.seats else None
        found: dict[str, Seat] = {}
        for each in references:
            predictor = self.opened(self._whole(each))
            reference = predictor.repertoire.reference
            held = before.get(reference, going_on)
            known = self._task(
                predictor.repertoire, task or (held.known.task.name if held else None), strict=bool(task)
            )
            self._check(known)
            found[reference] = Seat(predictor, known, [*held.turns] if held else [])
        self.seats = [*found.values()]

    def task(self, name: str) -> None:
        """All adapters answer as this task. Raises ConfigError if one has not learned it; nothing changes then."""
        known = [seat.predictor.repertoire.choose(name) for seat in self.seats]
        for each in known:
            self._check(each)
        for seat, each in zip(self.seats, known, strict=True):
            seat.known = each

    def reset(self) -> None:
        """Forgets all turns."""
        for seat in self.seats:
            seat.turns = []

    def instruct(self, text: str) -> None:
        """A system turn before all turns from now on; without a text, that of the task again. Raises ConfigError if no
        adapter answers conversations."""
        if text and not any(seat.converses for seat in self.seats):
            raise ConfigError(
                f"/system: {self.seats[0].told}; a system turn belongs to tasks of conversations (format messages)"
            )
        self.system = text or None

    def answer(self, seat: Seat, message: str, told: Callable[[str], Any]) -> Answer:
        """A seat's answer to a message; `told` gets it in pieces while it is generated. Both become turns.

        If `told`, or Ctrl-C, ends the answer with an exception, what was told stands as the answer.

        Raises:
            DataError: the message cannot be asked; no turn is added then. ConfigError: as `Predictor.stream`.
        """
        if not seat.known.generative:
            return seat.predictor.classify([message], task=seat.known.task.name)[0]
        asked, decoding = self._asked(seat, message), self.settings.over(generative(seat.known).decoding)
        pieces: list[str] = []

        def heard(piece: str) -> None:
            pieces.append(piece)
            told(piece)

        try:
            return seat.predictor.stream(asked, heard, task=seat.known.task.name, decoding=decoding)
        finally:
            if pieces:
                said: Turn = {"role": "assistant", "content": "".join(pieces)}
                seat.turns += [{"role": "user", "content": message}, said]

    def _asked(self, seat: Seat, message: str) -> Asked:
        if not seat.converses:
            return message
        system: list[Turn] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *seat.turns, {"role": "user", "content": message}]

    def _whole(self, reference: str) -> str:
        if not reference.startswith("@") or not self.seats:
            return reference
        return self.seats[0].reference.rpartition("@")[0] + reference

    def _task(self, repertoire: Repertoire, name: str | None, *, strict: bool) -> Known:
        """The task of that name; otherwise, unless it is asked for, the newest that generates, or the newest."""
        if name is not None and (strict or name in repertoire.tasks):
            return repertoire.choose(name)
        known = [*repertoire.tasks.values()]
        if not known:
            return repertoire.choose(None)  # says why
        return next((each for each in reversed(known) if asks(each)), known[-1])

    def _check(self, known: Known) -> None:
        """Raises ConfigError if the task asks nothing, or the settings do not fit its decoding."""
        if known.generative:
            self.settings.over(generative(known).decoding)


def asks(known: Known) -> bool:
    """Whether a task generates answers to something."""
    return isinstance(known.task, GenerativeTask) and known.task.form != "text"
