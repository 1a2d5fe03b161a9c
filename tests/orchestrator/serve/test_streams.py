"""Pieces on their way, and what becomes of an answer that nobody waits for."""

import asyncio
import json
from concurrent.futures import Future
from typing import Any

import pytest

from orchestrator.serve.bodies import Envelope
from orchestrator.serve.streams import Channel, events
from orchestrator.serve.ways import Text
from trainers.models.decoding import UnheardError

TEXT = Text(text="one two", finish_reason="stop", prompt_tokens=3, completion_tokens=2)


def sent(kind: Any, told: list[str], outcome: Text | Exception, *, usage: bool = False) -> list[Any]:
    """The events of an answer whose pieces are `told`."""

    async def run() -> list[str]:
        channel, answer = Channel(), Future[list[Any]]()
        for piece in told:
            channel.told(piece)
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result([outcome])
        first = await channel.first(answer)
        stream = events(Envelope(kind, "t/r@v1", "fp"), channel, first, answer, with_usage=usage)
        return [each async for each in stream if each]

    lines = asyncio.run(run())
    return [line if "[DONE]" in line else json.loads(line.removeprefix("data: ")) for line in lines]


def test_pieces_and_what_is_left_at_the_end() -> None:
    found = sent("text_completion", ["one", " t"], TEXT, usage=True)
    assert [each["choices"][0]["text"] for each in found[:3]] == ["one", " t", "wo"]
    assert [each["choices"][0]["finish_reason"] for each in found[:3]] == [None, None, "stop"]
    assert found[3]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert found[4] == "data: [DONE]\n\n"


def test_an_answer_that_comes_whole() -> None:
    found = sent("chat.completion", [], TEXT)
    assert [each["choices"][0]["delta"] for each in found[:-1]] == [
        {"role": "assistant", "content": ""}, {"content": "one two"},
    ]  # fmt: skip


def test_a_failure_after_the_first_piece_is_the_last_event() -> None:
    found = sent("text_completion", ["one"], ValueError("secret"))
    assert found[-1]["error"]["type"] == "server_error" and "secret" not in str(found)


def test_a_failure_before_the_first_piece_is_raised() -> None:
    with pytest.raises(ValueError, match="plain"):
        sent("text_completion", [], ValueError("plain"))


def test_who_leaves_ends_the_computation() -> None:
    async def run() -> None:
        channel, answer = Channel(), Future[list[Any]]()
        channel.told("one")
        stream = events(
            Envelope("text_completion", "t/r@v1", "fp"), channel, await channel.first(answer), answer, with_usage=False
        )
        assert "one" in [await anext(stream), await anext(stream)][1]  # type: ignore[call-overload]
        await stream.aclose()  # type: ignore[attr-defined]
        with pytest.raises(UnheardError):
            channel.told("two")
        assert answer.cancelled()

    asyncio.run(run())
