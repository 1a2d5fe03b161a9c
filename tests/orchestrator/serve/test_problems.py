"""Errors as OpenAI's servers have them."""

import pytest
from pydantic import ValidationError

from orchestrator.serve.problems import Problem, malformed, no_key, too_large, too_many
from orchestrator.serve.requests import ChatBody, ClassifyBody


def test_a_body() -> None:
    problem = Problem(400, "x: is wrong", code="c", param="x")
    assert problem.body() == {
        "error": {"message": "x: is wrong", "type": "invalid_request_error", "param": "x", "code": "c"}
    }
    assert [each.status for each in (no_key(), too_many(3), too_large(5))] == [401, 429, 413]
    assert too_many(3).headers == {"retry-after": "1"}


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ({}, "missing_required_parameter", "input: Field required"),
        ({"input": "x", "inptu": 1}, "unknown_parameter", "inptu: is not known here; did you mean 'input'?"),
        ({"input": "x", "zzz": 1}, "unknown_parameter", "zzz: is not known here; leave it out"),
        ({"input": "x", "union": "perhaps"}, "invalid_value", "union: "),
    ],
)
def test_the_first_fault_of_a_body(content: dict[str, object], code: str, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ClassifyBody.model_validate(content)
    problem = malformed(raised.value, ClassifyBody.model_fields)
    assert problem.code == code and problem.message.startswith(message.rstrip("?"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "text", "text": "x"}, {"type": "image"}], "messages[1].content[1].type: Input should be 'text'"),
        (3, "messages[1].content: Input should be a valid string"),
    ],
)
def test_a_fault_within_turns_is_named_as_code_reads_it(content: object, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ChatBody.model_validate({"messages": [{"role": "user", "content": x} for x in ("a", content)]})
    assert malformed(raised.value, ChatBody.model_fields).message == message
