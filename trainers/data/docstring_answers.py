"""Built-in generative tasks over the docstrings that `docstrings` reads: prompt and completion, for language models.

    describe    what a function does, from its signature
    name        what a function is called, from what it does
    parameter   what a parameter means, from its name and type, over the libraries that write numpydoc
    returns     what a function returns, from its name and what it does, over the same

The packages that docs-lm was pretrained on are none of these libraries, see `trainers/models/docs_lm/README.md`.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

from cluster.errors import DataError
from trainers.data.docstrings import (
    HEADER,
    LIBRARIES,
    NUMPYDOC_LIBRARIES,
    Entry,
    draw,
    entries,
    passage,
    plain,
    summary,
)

AnswerTask = Literal["describe", "name", "parameter", "returns"]
Row = dict[str, str]

MAX_ROWS = 1000  # of a task, train and test together
TEST_SHARE = 0.2
SHORTEST, LONGEST = 12, 120  # characters of a sentence
SIGNATURE_CHARACTERS = 120
SENTENCE_END = re.compile(r"(?<=[.!?])\s")
PARAMETER = re.compile(r"^(\w+) ?: ?(.*)\n((?:    .*\n?)+)", re.MULTILINE)


def answer_rows(task: AnswerTask, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and test rows of `prompt` and `completion`.

    No prompt is there twice, and no completion of the test is one of the training rows of the same task, but for names.
    Selection, split and order are drawn by `seed`.

    Raises:
        DataError: Python runs with `-OO`, which strips docstrings.
    """
    if sys.flags.optimize >= 2:
        raise DataError(f"task {task!r} of source docstrings: Python runs with -OO and has no docstrings; drop -OO")
    by_prompt: dict[str, str] = {}
    for prompt, completion in MAKERS[task]():
        by_prompt.setdefault(prompt, completion)
    drawn = sorted(by_prompt, key=lambda prompt: draw(seed, "answers", prompt))[:MAX_ROWS]
    tested = drawn[: round(TEST_SHARE * len(drawn))]
    told = {by_prompt[prompt] for prompt in tested} if task != "name" else set()
    train = [prompt for prompt in drawn[len(tested) :] if by_prompt[prompt] not in told]
    made = [[{"prompt": each, "completion": f" {by_prompt[each]}"} for each in part] for part in (train, tested)]
    return made[0], made[1]


# ---------------------------------------------------------------- the four tasks


def describe_pairs() -> Iterator[tuple[str, str]]:
    """(header of a function, its first sentence)."""
    for entry, sentence in functions(*LIBRARIES):
        yield f"{header(entry)}\nSummary:", sentence


def name_pairs() -> Iterator[tuple[str, str]]:
    """(first sentence of a function, its name)."""
    for entry, sentence in functions(*LIBRARIES):
        yield f"{sentence}\nName:", called(entry)


def parameter_pairs() -> Iterator[tuple[str, str]]:
    """(function, parameter and its type, the first sentence of what it means)."""
    for entry, sentence in functions(*NUMPYDOC_LIBRARIES):
        for name, kind, meaning in PARAMETER.findall(section(entry, "Parameters")):
            told = first_sentence(plain(meaning))
            if told:
                yield f"{called(entry)}: {sentence}\n{name} : {plain(kind)}\nMeaning:", told


def returns_pairs() -> Iterator[tuple[str, str]]:
    """(function, the first sentence of what it returns)."""
    for entry, sentence in functions(*NUMPYDOC_LIBRARIES):
        told = first_sentence(passage("Returns", section(entry, "Returns")))
        if told:
            yield f"{called(entry)}: {sentence}\nReturns:", told


MAKERS = {"describe": describe_pairs, "name": name_pairs, "parameter": parameter_pairs, "returns": returns_pairs}


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
