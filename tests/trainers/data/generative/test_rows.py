"""Rows of every format in their plain form, written by hand."""

from typing import Any

import pytest

from trainers.data.generative.rows import RowFault, canonical, question, written

ASK, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("form", "raw", "plain"),
    [
        ("prompt_completion", {"prompt": "a", "completion": "b", "id": 3}, {"prompt": "a", "completion": "b"}),
        ("prompt_completion", {"prompt": [ASK], "completion": [ANSWER]}, {"prompt": [ASK], "completion": [ANSWER]}),
        ("prompt_completion", {"prompt": "a", "completion": "b", "references": ["c"]},
         {"prompt": "a", "completion": "b", "references": ["c"]}),
        ("messages", {"messages": [ASK, {**ANSWER, "tool_calls": None}], "tools": [TOOL],
         "chat_template_kwargs": {"x": 1}},
         {"messages": [ASK, ANSWER], "tools": [TOOL], "chat_template_kwargs": {"x": 1}}),
        ("messages", {"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'},
         {"messages": [ASK, ANSWER]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, ANSWER]},
         {"messages": [ASK, ANSWER]}),
        ("messages", {"messages": [ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
         {"messages": [ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}], "content": ""}]}),
        ("text", {"text": " t "}, {"text": " t "}),
        ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, {"messages": [ASK, ANSWER]}),
        ("alpaca", {"instruction": "I", "input": "X", "output": "A", "system": "S", "history": [["Q", "A"]]},
         {"messages": [SYSTEM, ASK, ANSWER, {"role": "user", "content": "I\nX"}, ANSWER]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S",
                      "tools": [TOOL]},
         {"messages": [SYSTEM, ASK, ANSWER], "tools": [TOOL]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": "A"},
                                        {"from": "observation", "value": "O"}, {"from": "gpt", "value": "A"}]},
         {"messages": [ASK, ANSWER, {"role": "tool", "content": "O"}, ANSWER]}),
    ],
)  # fmt: skip
def test_plain_forms(form: str, raw: Any, plain: Any) -> None:
    assert canonical(form, {}, raw) == plain


def test_columns_stand_for_those_of_the_format() -> None:
    columns = {"prompt": "question", "completion": "answer"}
    assert canonical("prompt_completion", columns, {"question": "a", "answer": "b", "prompt": 1}) == {
        "prompt": "a", "completion": "b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("form", "raw", "found", "fix"),
    [
        ("text", 3, "3 is not a mapping", '{"column": value}'),
        ("text", {"texts": "a"}, "no column 'text', only texts", "did you mean 'texts'?"),
        ("prompt_completion", {"messages": [ASK, ANSWER]}, "no column 'prompt'", "format: messages"),
        ("text", {"text": 5}, "text is 5, not a string", "quote it"),
        ("text", {"text": None}, "text is null", "fill it, or remove the row"),
        ("messages", {"messages": [ASK, {**ANSWER, "content": None}]}, "messages[1].content is null", "fill it"),
        ("messages", {"question": "a", "answer": "b"}, "no column 'messages'",
         "format: prompt_completion and columns: {prompt: question, completion: answer}"),
        ("messages", {"id": "a", "talk": [ASK, ANSWER]}, "no column 'messages'", "columns: {messages: COLUMN}"),
        ("sharegpt", {"a": "a", "b": "b", "c": "c"}, "no column", "columns: {prompt: COLUMN, completion: COLUMN}"),
        ("text", {"text": " \n"}, "text is empty", "remove the row"),
        ("text", {"text": "a\ud800"}, "half a surrogate pair", "repair it"),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "completion is empty", "fill it"),
        ("prompt_completion", {"prompt": "a", "completion": [ANSWER]}, "prompt is a string and completion a list",
         "both"),
        ("prompt_completion", {"prompt": [ASK], "completion": [ASK]}, "begins with a turn of user", "assistant"),
        ("prompt_completion", {"prompt": "a", "completion": "b", "references": 3}, "references is 3", "list"),
        ("messages", {"messages": []}, "messages is []", "at least one turn"),
        ("messages", {"messages": "hello"}, "messages is 'hello'", "at least one turn"),
        ("messages", {"messages": ["hi"]}, "messages[0] is 'hi'", '{"role": …, "content": …}'),
        ("messages", {"messages": [{"from": "human", "value": "Q"}]}, "has `from` and `value`", "format: sharegpt"),
        ("messages", {"messages": [ASK, {**ANSWER, "content": " "}]}, "messages[1], a turn of assistant, is empty",
         "turn"),
        ("messages", {"messages": [ASK, {**ANSWER, "content": 4}]}, "messages[1].content is 4", "quote it"),
        ("messages", {"messages": [{**ASK, "content": [{"type": "image"}]}]}, "part of type 'image'", "text alone"),
        ("messages", {"messages": [ASK, ANSWER], "tools": "x"}, "tools is 'x'", "JSON schemas"),
        ("messages", {"messages": [ASK, ANSWER], "chat_template_kwargs": {"tokenize": 1}}, "sets 'tokenize'", "alone"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["q"]]}, "history is [['q']]", "[question, answer]"),
        ("sharegpt", {"conversations": [{"from": "humam", "value": "Q"}]}, "from is 'humam'", "did you mean 'human'?"),
        ("sharegpt", {"conversations": [ASK]}, "has `role` and `content`", "format: messages"),
    ],
)  # fmt: skip
def test_faults(form: str, raw: Any, found: str, fix: str) -> None:
    with pytest.raises(RowFault) as fault:
        canonical(form, {}, raw)
    assert found in fault.value.found and fix in fault.value.fix


def test_what_is_asked_is_what_stands_before_the_last_answer() -> None:
    talk = {"messages": [ASK, ANSWER, ASK, {**ANSWER, "content": "other"}]}
    same = {"messages": [ASK, ANSWER, ASK, {**ANSWER, "content": "more"}]}
    assert question(talk) == question(same) != question({"messages": [ASK, ANSWER]})
    assert question({"prompt": " a ", "completion": "b"}) == "a" and question({"text": "t"}) == "t"
    assert question({"prompt": [ASK], "completion": [ANSWER]}) == question({"messages": [ASK, ANSWER]})


def test_a_row_is_written_with_its_keys_in_order() -> None:
    assert written({"b": "ü", "a": [1]}) == '{"b":"ü","a":[1]}'
