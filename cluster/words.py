"""Words that people type, and what they may have meant."""

import difflib
import re
from collections.abc import Iterable, Sequence

OF_URL = re.compile(r"://[^/?#\s\"']*@")  # the user of a URL
CUTOFF = 0.5  # of difflib's ratio: below it a word is no misspelling
LONGEST = 200  # characters of a word


def nearest(given: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The known word that is most similar to `given`; None if none is similar enough."""
    found = difflib.get_close_matches(given[:LONGEST], [*known], n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(given: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """`did you mean 'x'?` for the nearest known word, None if none is near."""
    near = nearest(given, known, cutoff)
    return None if near is None else f"did you mean {near!r}?"


def as_options(assignments: Sequence[str]) -> list[str]:
    """`--set` before each assignment, as words of a command."""
    return [word for each in assignments for word in ("--set", each)]


def brief(text: str, most: int) -> str:
    """The text, cut to `most` characters, the last of them "…" if it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def without_user(text: str) -> str:
    """The text without the users and passwords of URLs in it."""
    return OF_URL.sub("://…@", text)


def printable(text: str) -> str:
    r"""The text with an escape, such as \x1b, for every character that a terminal obeys or does not show; new lines
    stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
