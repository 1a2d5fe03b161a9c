"""Bodies of requests, as OpenAI's API has them, and further keys: `task`, `union`, `top_k`.

Keys that would change an answer and are not there yet are refused, unless they have the value that changes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError, field_validator

from cluster.schema import Frozen
from orchestrator.delivery.repertoire import Asked
from orchestrator.serve.problems import Problem, malformed
from trainers.config import DecodingConfig
from trainers.data.cleaning import encodes

Zero = Annotated[float, Field(ge=0, le=0)]
Count = Annotated[int, Field(ge=1)]
B = TypeVar("B", bound="Body")
SYSTEM = {"developer": "system"}  # OpenAI's newer word for the role


class Body(Frozen):
    """What all requests have. `model` may be left out if one adapter is served. A value of another kind is refused, as
    `true` for a number or "1" for 1."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    task: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None


class ClassifyBody(Body):
    """POST /v1/classify."""

    input: str | Annotated[list[str], Field(min_length=1)]
    union: bool = False

    @property
    def texts(self) -> list[str]:
        """The texts to label."""
        return [self.input] if isinstance(self.input, str) else self.input


class StreamOptions(Frozen):
    """`include_usage`: a last chunk with the numbers of tokens."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class WriteBody(Body):
    """What requests for texts have. What is not given is as the task's `decoding` says."""

    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Count | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @field_validator("stop")
    @classmethod
    def _some(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if not all(stops) or len(stops) > 16:
            raise ValueError("at most 16 strings, none of them empty")
        if not all(map(encodes, stops)):
            raise ValueError("has half a character; repair it")
        return value

    @property
    def most(self) -> int | None:
        """Tokens of an answer, at most."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def decoding(self, task: DecodingConfig) -> DecodingConfig:
        """How the answer is generated: as the task's, with what the request says."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        given = {key: getattr(self, key) for key in ("temperature", "top_p", "top_k", "seed")}
        values = {**task.model_dump(), **{key: value for key, value in given.items() if value is not None}}
        values["stop"] = (*task.stop, *stops)
        if not values["temperature"]:  # the likeliest token: what says how to draw has no effect
            values |= {key: DecodingConfig.default_of(key) for key in ("top_p", "top_k", "seed")}
        elif self.temperature:
            values["beams"] = 1
        values["seed"] %= 2**32
        return DecodingConfig.model_validate(values)


class CompletionBody(WriteBody):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    echo: Literal[False] | None = None
    suffix: None = None
    logprobs: None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts, each of which gets an answer."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Part(Frozen):
    """A part of a turn's content: text alone."""

    type: Literal["text"]
    text: str


class Turn(Frozen):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def plain(self) -> dict[str, str]:
        """The turn as templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": SYSTEM.get(self.role, self.role), "content": text}


class ChatBody(WriteBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    store: Literal[False] | None = None
    tools: Annotated[list[str], Field(max_length=0)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @property
    def most(self) -> int | None:
        """See WriteBody."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def asked(self) -> Asked:
        """The conversation; a single question is asked as the task asks one, with or without turns."""
        turns = [turn.plain for turn in self.messages]
        return turns[0]["content"] if len(turns) == 1 and turns[0]["role"] == "user" else turns


def read_body(kind: type[B], data: bytes) -> B:
    """A request's body. Raises Problem if it is no JSON object of these keys."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON ({error})", code="invalid_json") from None
    if not isinstance(content, Mapping):
        raise Problem(400, "the body is no JSON object", code="invalid_json")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise malformed(error, kind.model_fields) from None


def stand_alone(texts: Sequence[str], key: str, most: int) -> None:
    """Raises Problem if there are more than `most` texts."""
    if len(texts) > most:
        raise Problem(
            400, f"{key}: {len(texts):,} texts, of which a request may have {most} (max_texts); send them in parts",
            code="invalid_value", param=key,
        )  # fmt: skip
