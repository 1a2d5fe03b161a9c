"""Words that people type, and what they may have meant."""

import difflib
from collections.abc import Iterable, Sequence

CUTOFF = 0.5  # of difflib's ratio: below it a word is no misspelling


def nearest(given: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The known word that is most similar to `given`; None if none is similar enough."""
    found = difflib.get_close_matches(given, [*known], n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(given: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """`did you mean 'x'?` for the nearest known word, None if none is near."""
    near = nearest(given, known, cutoff)
    return None if near is None else f"did you mean {near!r}?"


def as_options(assignments: Sequence[str]) -> list[str]:
    """`--set` before each assignment, as words of a command."""
    return [word for each in assignments for word in ("--set", each)]
