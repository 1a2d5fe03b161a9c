"""Bodies of requests: what counts, what is refused, and how an answer is generated."""

from typing import Any

import pytest

from orchestrator.serve.problems import Problem
from orchestrator.serve.requests import ChatBody, ClassifyBody, CompletionBody, read_body, stand_alone
from trainers.config import GREEDY, DecodingConfig

DRAWN = DecodingConfig(temperature=0.7, top_k=5, top_p=0.9, seed=3, stop=("#",))
BEAMS = DecodingConfig(beams=4)


@pytest.mark.parametrize(
    ("task", "asked", "expected"),
    [
        (GREEDY, {}, {}),
        (DRAWN, {}, DRAWN.model_dump()),
        (DRAWN, {"temperature": 0}, {"stop": ("#",)}),
        (DRAWN, {"stop": "!", "seed": -1}, {**DRAWN.model_dump(), "stop": ("#", "!"), "seed": 2**32 - 1}),
        (GREEDY, {"top_p": 0.5, "seed": 1}, {}),
        (GREEDY, {"temperature": 2, "top_k": 3}, {"temperature": 2, "top_k": 3}),
        (BEAMS, {}, {"beams": 4}),
        (BEAMS, {"temperature": 1}, {"temperature": 1}),
    ],
)
def test_decoding(task: DecodingConfig, asked: dict[str, Any], expected: dict[str, Any]) -> None:
    assert CompletionBody(prompt="x", **asked).decoding(task) == DecodingConfig(**expected)


def test_a_conversation() -> None:
    turn = {"role": "user", "content": "hi"}
    assert ChatBody.model_validate({"messages": [turn]}).asked == "hi"
    parts = {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}]}
    asked = ChatBody.model_validate({"messages": [parts, turn], "max_tokens": 5, "max_completion_tokens": 7})
    assert asked.asked == [{"role": "system", "content": "be short"}, turn] and asked.most == 7


def test_what_openais_clients_send_is_taken() -> None:
    """Keys with the value that changes nothing."""
    content = {
        "model": "m", "prompt": "x", "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {},
        "user": "me", "metadata": {}, "echo": False, "logprobs": None, "best_of": 1, "suffix": None, "stop": None,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert CompletionBody.model_validate(content).include_usage


@pytest.mark.parametrize(
    "change", [{"stop": "\ud800"}, {"n": 2}, {"frequency_penalty": 0.1}, {"logit_bias": {"1": 2.0}}, {"echo": True}]
)
def test_what_would_change_an_answer_is_refused(change: dict[str, Any]) -> None:
    import json

    with pytest.raises(Problem) as raised:
        read_body(CompletionBody, json.dumps({"prompt": "x", **change}).encode())
    assert raised.value.param == next(iter(change))


def test_texts() -> None:
    assert ClassifyBody(input="x").texts == ["x"] and CompletionBody(prompt=["x", "y"]).prompts == ["x", "y"]
    stand_alone(["x"] * 3, "input", 3)
    with pytest.raises(Problem, match="input: 4 texts, of which a request may have 3"):
        stand_alone(["x"] * 4, "input", 3)
