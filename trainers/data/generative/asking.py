"""Rows that ask and may lack an answer, in a plain form (`rows`): a stand-in has its place, and is not read."""

from collections.abc import Mapping
from typing import Any

from trainers.data.generative.rows import RowFault, Values, canonical, unpacked

STAND_IN = "a"
ANSWER = {"prompt_completion": "completion", "alpaca": "output"}  # by format, the column that an asking row may lack
SAYS = {"role": "assistant", "content": STAND_IN}


def asking(form: str, columns: Mapping[str, str], raw: Any) -> Values:
    """A row as read, in its plain form. An answer that it has stays: its first token decides whether white space at the
    end of a plain prompt belongs to it. A conversation that ends with the assistant is asked before that turn.

    Raises:
        RowFault: as `canonical`, or the rows are plain text, which asks nothing.
    """
    if form == "text":
        raise RowFault("is plain text, which asks nothing", "name a task with answers")
    if not isinstance(raw, Mapping):
        return canonical(form, columns, raw)
    held = dict(raw)
    if name := ANSWER.get(form):
        column = columns.get(name, name)
        if held.get(column) in (None, "", []):
            turns = isinstance(unpacked(held.get(columns.get("prompt", "prompt"))), list)
            held[column] = [SAYS] if turns else STAND_IN
    return ending(canonical(form, columns, held))


def asking_text(form: str, text: str) -> Values:
    """A text as the only thing that is asked. Raises RowFault if it is empty, or as `asking`."""
    if form == "prompt_completion":
        return asking(form, {}, {"prompt": text})
    turn = {"role": "user", "content": text}
    return asking("text" if form == "text" else "messages", {}, {"messages": [turn]})


def ending(values: Values) -> Values:
    """The row, whose conversation ends with a turn of the assistant."""
    turns = values.get("messages")
    return {**values, "messages": [*turns, SAYS]} if turns and turns[-1]["role"] != "assistant" else values
