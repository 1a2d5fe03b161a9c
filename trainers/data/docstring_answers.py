"""Built-in generative tasks over the docstrings that `docstrings` reads: prompt and completion, for language models.

    example     the first call of a function in its examples, from its header and its first sentence
    arguments   the names of a function's arguments, from its header
    signature   how a function is called, from the documentation of its parameters
    default     the default of a parameter, from its documentation

The packages that docs-lm was pretrained on are none of these libraries, see `trainers/models/docs_lm/README.md`.
"""

import importlib
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

from cluster.errors import DataError
from trainers.data.docstrings import (
    HEADER,
    LIBRARIES,
    NUMPYDOC_LIBRARIES,
    Entry,
    draw,
    entries,
    plain,
    summary,
)

AnswerTask = Literal["example", "arguments", "signature", "default"]
Row = dict[str, str]
Pair = tuple[Entry, str, str]  # what it is about, prompt, completion

MAX_ROWS = 1000  # of a task, train and test together
MAX_SAME = 60  # of them with one answer
TEST_SHARE = 0.2
SHORTEST, LONGEST = 12, 120  # characters of a sentence, or of a line of an example
SIGNATURE_CHARACTERS = 120
LONGEST_PROMPT = 400  # characters
MOST_PARAMETERS = 5  # that a signature is asked for
SENTENCE_END = re.compile(r"(?<=[.!?])\s")
PARAMETER = re.compile(r"^(\w+) ?: ?(.*)\n((?:    .*\n?)+)", re.MULTILINE)
DEFAULT = re.compile(r"default(?:s to| is|:|=)? *[\"']?([\w.+-]*\w)")
CALL = re.compile(r"^>>> (.*?)(?: *# ?doctest.*)?$", re.MULTILINE)


def answer_rows(task: AnswerTask, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and test rows of `prompt` and `completion`.

    No two prompts are equal once case, digits and punctuation are dropped. All rows about functions of one name are in
    training or in the test. Selection, split and order are drawn by `seed`.

    Raises:
        DataError: Python runs with `-OO`, which strips docstrings.
    """
    if sys.flags.optimize >= 2:
        raise DataError(f"task {task!r} of source docstrings: Python runs with -OO and has no docstrings; drop -OO")
    found: dict[str, tuple[str, Row]] = {}
    for entry, prompt, completion in MAKERS[task]():
        if completion and len(prompt) <= LONGEST_PROMPT:
            key = " ".join(re.findall(r"[a-z]+", prompt.lower()))
            found.setdefault(key, (called(entry), {"prompt": prompt, "completion": f" {completion}"}))
    seen = Counter[str]()
    drawn: list[tuple[str, Row]] = []
    for name, row in sorted(found.values(), key=lambda each: draw(seed, "answers", each[1]["prompt"])):
        seen[row["completion"]] += 1
        if seen[row["completion"]] <= MAX_SAME and len(drawn) < MAX_ROWS:
            drawn.append((name, row))
    names = sorted({name for name, _ in drawn}, key=lambda name: draw(seed, "split", name))
    tested = {*names[: round(TEST_SHARE * len(names))]}
    return [row for name, row in drawn if name not in tested], [row for name, row in drawn if name in tested]


# ---------------------------------------------------------------- the four tasks


def example_pairs() -> Iterator[Pair]:
    """(header and first sentence of a function, the first line of its examples that calls it)."""
    for entry, sentence in functions(*LIBRARIES):
        calls = (line for line in CALL.findall(entry.doc) if f"{called(entry)}(" in line)
        line = next((line for line in calls if SHORTEST <= len(line) <= LONGEST), "")
        yield entry, f"{header(entry)}\n{sentence}\n>>>", line


def argument_pairs() -> Iterator[Pair]:
    """(header of a function, the names of its arguments)."""
    for entry, _ in functions(*LIBRARIES):
        if not (shown := header(entry)).endswith("(...):"):
            yield entry, f"{shown}\nArguments:", ", ".join(inspect.signature(resolved(entry)).parameters)


def signature_pairs() -> Iterator[Pair]:
    """(function and the first sentence about each of its parameters, how it is called)."""
    for entry, sentence in functions(*NUMPYDOC_LIBRARIES):
        documented = {name: first_sentence(plain(meaning)) for name, _, meaning in parameters(entry)}
        if 2 <= len(documented) <= MOST_PARAMETERS and all(documented.values()):
            lines = "\n".join(f"{name} : {meaning}" for name, meaning in documented.items())
            yield (
                entry,
                f"{called(entry)}: {sentence}\n{lines}\nSignature:",
                f"{called(entry)}({', '.join(documented)})",
            )


def default_pairs() -> Iterator[Pair]:
    """(parameter, its type and the first sentence about it, its default)."""
    for entry, _ in functions(*NUMPYDOC_LIBRARIES):
        for name, kind, meaning in parameters(entry):
            told, value = first_sentence(plain(meaning)), DEFAULT.search(plain(kind))
            if told and value:
                yield entry, f"{name} : {plain(kind)}\n{told}\nDefault:", value[1]


MAKERS: dict[AnswerTask, Callable[[], Iterator[Pair]]] = {
    "example": example_pairs, "arguments": argument_pairs, "signature": signature_pairs, "default": default_pairs,
}  # fmt: skip


# ---------------------------------------------------------------- text


def functions(*libraries: str) -> Iterator[tuple[Entry, str]]:
    """Functions and methods of these libraries, each with its first sentence."""
    for library in libraries:
        for entry in entries(library):
            sentence = first_sentence(summary(entry.doc))
            if entry.kind in ("function", "method") and sentence:
                yield entry, sentence


def first_sentence(text: str) -> str:
    """The first sentence, empty if it is too short or too long to be asked for."""
    sentence = SENTENCE_END.split(text.strip(), maxsplit=1)[0]
    return sentence if SHORTEST <= len(sentence) <= LONGEST else ""


def section(entry: Entry, title: str) -> str:
    """The body of one numpydoc section, empty if there is none."""
    parts = HEADER.split(entry.doc)  # text, header, text, header, …
    found = dict(zip((name.title() for name in parts[1::2]), parts[2::2], strict=True))
    return found.get(title, "")


def parameters(entry: Entry) -> list[tuple[str, str, str]]:
    """Name, type and text of each documented parameter."""
    return PARAMETER.findall(section(entry, "Parameters"))


def called(entry: Entry) -> str:
    """The name without its path."""
    return entry.name.rpartition(".")[2]


def header(entry: Entry) -> str:
    """`def name(arguments):`, with `...` for arguments that are not known or too long."""
    try:
        arguments = str(inspect.signature(resolved(entry)))
    except (TypeError, ValueError, AttributeError):
        arguments = "(...)"
    arguments = arguments if len(arguments) <= SIGNATURE_CHARACTERS and " at 0x" not in arguments else "(...)"
    return f"def {called(entry)}{arguments}:"


def resolved(entry: Entry) -> Any:
    """The documented object. Raises AttributeError if it is not found by its name."""
    module = "builtins" if entry.module.startswith("builtins.") else entry.module
    found: Any = importlib.import_module(module)
    for part in entry.name.removeprefix(f"{module}.").split("."):
        found = getattr(found, part)
    return found
