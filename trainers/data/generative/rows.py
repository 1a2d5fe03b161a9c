"""Rows of every format as one of three plain forms, which is what is stored, digested, sent and rendered.

    {"prompt": str, "completion": str, "references": [str]}                 references only if there are others
    {"prompt": [turn], "completion": [turn], "tools", "chat_template_kwargs"}
    {"messages": [turn], "tools", "chat_template_kwargs"}
    {"text": str}

A turn is {"role": str, "content": str, …}. Alpaca and ShareGPT rows become messages, as LLaMA-Factory makes them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.data.generative.config import COLUMNS
from trainers.data.sources import REQUIRED, did_you_mean, listed, shown

Turn = dict[str, Any]
Values = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system", "function_call": "assistant", "observation": "tool",
    "tool": "tool",
}  # fmt: skip
RESERVED = ("messages", "conversation", "tools", "chat_template", "tokenize", "add_generation_prompt", "return_dict",
            "return_tensors", "continue_final_message", "return_assistant_tokens_mask", "padding", "truncation",
            "max_length", "documents")  # fmt: skip


class RowFault(Exception):
    """What is wrong with a row, and the fix; who reads it knows the task and the row. `kind` is as in `Refused`."""

    def __init__(self, found: str, fix: str, kind: str = "template") -> None:
        super().__init__(found, fix, kind)
        self.found, self.fix, self.kind = found, fix, kind


def canonical(form: str, columns: Mapping[str, str], raw: Any) -> Values:
    """A row as read, in one of the forms above.

    Raises:
        RowFault: a column is absent, or holds what the format does not allow.
    """
    if not isinstance(raw, Mapping):
        raise RowFault(f"{shown(raw)} is not a mapping", 'write rows as {"column": value}')
    values = {name: raw.get(columns.get(name, name)) for name in COLUMNS[form]}
    for name in REQUIRED[form]:
        if columns.get(name, name) not in raw:
            raise absent(form, columns.get(name, name), name, raw)
    match form:
        case "prompt_completion":
            return pair(values)
        case "messages":
            return with_tools({"messages": turns(values["messages"], "messages")}, values)
        case "text":
            return {"text": filled(values["text"], "text")}
        case "alpaca":
            return {"messages": alpaca(values)}
    return sharegpt(values)


def absent(form: str, column: str, name: str, raw: Mapping[Any, Any]) -> RowFault:
    """The fault of a row without a column that its format needs."""
    fits = [other for other in COLUMNS if {*REQUIRED[other]} <= {*raw}]
    fix = f"name the format that it has: format: {fits[0]}" if fits else named(form, name, raw)
    return RowFault(
        f"a row of {form} has no column {column!r}, only {listed(map(str, raw)) or 'none'}",
        fix + did_you_mean(column, map(str, raw)),
    )


def named(form: str, name: str, raw: Mapping[Any, Any]) -> str:
    """The columns to name. A row of texts without a list has no conversation, but may have a prompt and its answer."""
    held = {str(column): unpacked(value) for column, value in raw.items()}
    texts = [column for column, value in held.items() if isinstance(value, str)]
    if form not in ("messages", "sharegpt") or len(texts) < 2 or any(isinstance(each, list) for each in held.values()):
        return f"name yours: columns: {{{name}: COLUMN}}"
    asked, answer = texts if len(texts) == 2 else ("COLUMN", "COLUMN")
    return f"name format: prompt_completion and columns: {{prompt: {asked}, completion: {answer}}}"


def filled(value: Any, name: str) -> str:
    """A string that is not only white space."""
    text = string(value, name)
    if not text.strip():
        raise RowFault(f"{name} is empty", "fill it, or remove the row")
    return text


def string(value: Any, name: str) -> str:
    """The value, which must be a string without half surrogate pairs."""
    if value is None:
        raise RowFault(f"{name} is null", "fill it, or remove the row")
    if not isinstance(value, str):
        raise RowFault(f"{name} is {shown(value)}, not a string", "quote it, or name another column")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowFault(f"{name} {shown(value)} has half a surrogate pair", "repair it") from None
    return value


# ---------------------------------------------------------------- prompt and completion


def pair(values: Values) -> Values:
    """Prompt and completion, both strings or both conversations."""
    prompt, completion = unpacked(values["prompt"]), unpacked(values["completion"])
    if isinstance(prompt, list) != isinstance(completion, list):
        raise RowFault(
            f"prompt is {kind(prompt)} and completion {kind(completion)}", "make both strings, or both lists of turns"
        )
    if isinstance(prompt, list):
        asked, answered = turns(prompt, "prompt"), turns(completion, "completion")
        if answered[0]["role"] != "assistant":
            raise RowFault(f"completion begins with a turn of {answered[0]['role']}", "let it begin with assistant")
        return with_tools({"prompt": asked, "completion": answered}, values)
    found: Values = {"prompt": string(prompt, "prompt"), "completion": filled(completion, "completion")}
    others = unpacked(values["references"]) or []
    if not isinstance(others, list):
        raise RowFault(f"references is {kind(others)}", "make it a list of strings")
    if others:
        found |= {"references": [string(each, "references") for each in others]}
    return found


def kind(value: object) -> str:
    """What a value is, in words."""
    return "a list" if isinstance(value, list) else "a string" if isinstance(value, str) else shown(value)


def unpacked(value: Any) -> Any:
    """A list or mapping that is written as JSON in a string, as CSV files have it; else the value, without nulls."""
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[]", "[\n", '{"', '["'):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value if isinstance(value, str) else without_nulls(value)


def without_nulls(value: Any) -> Any:
    """The same without keys whose value is null, which Parquet adds to rows that lack them."""
    if isinstance(value, Mapping):
        return {str(key): without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        return [without_nulls(inner) for inner in value]
    return value


# ---------------------------------------------------------------- conversations


def turns(value: Any, name: str) -> list[Turn]:
    """A conversation: at least one turn, each with a role and a text."""
    found = unpacked(value)
    if not isinstance(found, list) or not found:
        raise RowFault(
            f"{name} is {shown(found)}", 'make it a list of {"role": …, "content": …} with at least one turn'
        )
    return [turn(each, f"{name}[{index}]") for index, each in enumerate(found)]


def turn(value: Any, name: str) -> Turn:
    """One turn, its text a string."""
    if not isinstance(value, Mapping):
        raise RowFault(f"{name} is {shown(value)}", 'write a turn as {"role": …, "content": …}')
    if "role" not in value and {"from", "value"} <= {*value}:
        raise RowFault(f"{name} has `from` and `value`", "name the format that it has: format: sharegpt")
    role = string(value.get("role"), f"{name}.role").strip()
    content = text_of(value.get("content"), f"{name}.content", bool(value.get("tool_calls")))
    if not content.strip() and role in ("user", "assistant") and not value.get("tool_calls"):
        raise RowFault(f"{name}, a turn of {role}, is empty", "fill it, or remove the turn")
    return {**plain(value, name), "role": role, "content": content}


def text_of(value: Any, name: str, may_lack: bool) -> str:
    """A turn's text: a string, or parts of type text, joined."""
    if value is None and may_lack:
        return ""
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        others = [each.get("type") for each in value if not isinstance(each.get("text"), str)]
        if others:
            raise RowFault(f"{name} has a part of type {others[0]!r}", "keep text alone: other parts have no tokens")
        return string("".join(each["text"] for each in value), name)
    return string(value, name)


def plain(value: Any, name: str) -> Any:
    """The value, which must be such as JSON holds."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise RowFault(f"{name} is {shown(value)}, which JSON cannot hold", "repair it") from None
    return value


def with_tools(found: Values, values: Values) -> Values:
    """A conversation with its tools and the template's variables, if it has any."""
    tools, variables = unpacked(values.get("tools")), unpacked(values.get("chat_template_kwargs"))
    if tools:
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise RowFault(f"tools is {shown(tools)}", "make it a list of JSON schemas, as transformers takes them")
        found |= {"tools": plain(tools, "tools")}
    if variables:
        if not isinstance(variables, Mapping) or (taken := [name for name in variables if name in RESERVED]):
            what = shown(variables) if not isinstance(variables, Mapping) else f"sets {taken[0]!r}"
            raise RowFault(f"chat_template_kwargs {what}", "give variables of the template alone, by name")
        found |= {"chat_template_kwargs": plain(variables, "chat_template_kwargs")}
    return found


def alpaca(values: Values) -> list[Turn]:
    """[system,] history, instruction with input, output."""
    asked = filled(values["instruction"], "instruction")
    if values["input"] is not None and string(values["input"], "input").strip():
        asked = f"{asked}\n{values['input']}"
    history = unpacked(values["history"]) or []
    if not isinstance(history, list) or not all(isinstance(each, list) and len(each) == 2 for each in history):
        raise RowFault(f"history is {shown(history)}", "make it a list of [question, answer]")
    spoken = [
        {"role": role, "content": filled(text, "history")}
        for each in history
        for role, text in zip(("user", "assistant"), each, strict=True)
    ]
    last = {"role": "assistant", "content": filled(values["output"], "output")}
    return [*system_turn(values["system"]), *spoken, {"role": "user", "content": asked}, last]


def system_turn(value: Any) -> list[Turn]:
    """A system turn, if there is a text for one."""
    if value is None or not string(value, "system").strip():
        return []
    return [{"role": "system", "content": value}]


def sharegpt(values: Values) -> Values:
    """[system,] the turns by their roles elsewhere."""
    said = unpacked(values["conversations"])
    if not isinstance(said, list) or not said:
        raise RowFault(f"conversations is {shown(said)}", 'make it a list of {"from": …, "value": …}')
    found = [sharegpt_turn(each, f"conversations[{index}]") for index, each in enumerate(said)]
    return with_tools({"messages": [*system_turn(values["system"]), *found]}, values)


def sharegpt_turn(value: Any, name: str) -> Turn:
    """One turn; a function_call is the assistant's."""
    if not isinstance(value, Mapping):
        raise RowFault(f"{name} is {shown(value)}", 'write a turn as {"from": …, "value": …}')
    if {"role", "content"} <= {*value}:
        raise RowFault(f"{name} has `role` and `content`", "name the format that it has: format: messages")
    said_by = string(value.get("from"), f"{name}.from").strip()
    if said_by not in SHAREGPT:
        raise RowFault(
            f"{name}.from is {said_by!r}", f"use one of {', '.join(SHAREGPT)}{did_you_mean(said_by, SHAREGPT)}"
        )
    return turn({"role": SHAREGPT[said_by], "content": value.get("value")}, name)


# ---------------------------------------------------------------- what a row is told from others by


def written(values: Values) -> str:
    """The row as a line of JSON, keys as they stand: some templates show them in that order."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def question(values: Values) -> str:
    """What is asked: a row of train must not ask what a row of test asks. Of plain text, all of it."""
    if "messages" in values:
        return written({"prompt": before_answer(values["messages"]), "tools": values.get("tools")})
    if isinstance(values.get("prompt"), list):
        return written({"prompt": values["prompt"], "tools": values.get("tools")})
    return str(values.get("prompt", values.get("text"))).strip()


def before_answer(messages: Sequence[Turn]) -> list[Turn]:
    """The turns before the last of the assistant; all of them if it says nothing."""
    last = max((i for i, each in enumerate(messages) if each["role"] == "assistant"), default=len(messages))
    return list(messages[:last])
