"""The JSON of answers, as OpenAI's servers write it. `model` is the version that answered."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.delivery.predictor import Predictor
from orchestrator.log.entry import JsonLike
from orchestrator.serve.held import Held
from orchestrator.serve.ways import Text
from trainers.objectives.answering import Labelled

Kind = Literal["classify", "text_completion", "chat.completion"]
Json = Mapping[str, JsonLike]
VERSION_HEADER = "x-orthoplex-version"


@dataclass(frozen=True)
class Envelope:
    """What all answers of a request have in common. It holds no version, but its names."""

    kind: Kind
    version: str
    fingerprint: str
    id: str = field(default_factory=lambda: f"op-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, kind: Kind, predictor: Predictor) -> "Envelope":
        """The envelope of a version's answers."""
        return cls(kind, predictor.reference, fingerprint(predictor))

    @property
    def headers(self) -> dict[str, str]:
        """The header that names the version."""
        return {VERSION_HEADER: self.version}

    def around(self, content: Json, *, chunk: bool = False) -> Json:
        """A whole body, or a chunk of a stream."""
        kind = f"{self.kind}.chunk" if chunk and self.kind == "chat.completion" else self.kind
        told: Json = {"id": self.id, "object": kind, "created": self.created, "model": self.version}
        return {**told, "system_fingerprint": self.fingerprint, **content}

    def chosen(self, texts: Sequence[Text]) -> Json:
        """The body of whole answers."""
        choices = [
            {"index": index, **self._said(text.text), "logprobs": None, "finish_reason": text.finish_reason}
            for index, text in enumerate(texts)
        ]
        return self.around({"choices": choices, "usage": usage(texts)})

    def piece(self, text: str, finish_reason: str | None = None, *, first: bool = False) -> Json:
        """A chunk with a piece of an answer."""
        if self.kind == "chat.completion":
            begins = {"role": "assistant", "content": ""} if first else {}
            said: Json = {"delta": {**begins, **({"content": text} if text else {})}}
        else:
            said = {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        return self.around({"choices": [choice]}, chunk=True)

    def _said(self, text: str) -> Json:
        if self.kind == "chat.completion":
            return {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"text": text}


def usage(texts: Sequence[Text]) -> dict[str, int]:
    """The numbers of tokens."""
    asked, answered = sum(text.prompt_tokens for text in texts), sum(text.completion_tokens for text in texts)
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def labels(envelope: Envelope, task: str | None, found: Sequence[Labelled]) -> Json:
    """The body of labels."""
    data = [
        {"index": index, "label": each.label, "probability": each.probability, "scores": dict(each.scores)}
        for index, each in enumerate(found)
    ]
    return envelope.around({"task": task, "data": data})


def model(held: Held) -> Json:
    """An adapter in the list of models: the version that answers, and its tasks."""
    knows = held.predictor.repertoire
    tasks = [
        {"name": name, "kind": "text"}
        if known.generative
        else {"name": name, "kind": "labels", "labels": [*known.description.labels]}
        for name, known in knows.tasks.items()
    ]
    return {
        "id": held.name, "object": "model", "created": held.since, "owned_by": held.track.team,
        "version": knows.reference, "system_fingerprint": fingerprint(held.predictor), "follows": held.alias,
        "tasks": tasks, "problem": held.problem,
    }  # fmt: skip


def fingerprint(predictor: Predictor) -> str:
    """The start of the sha256 of the version's manifest."""
    return f"fp_{predictor.repertoire.version.commit.manifest_sha256[:16]}"
