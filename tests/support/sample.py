"""Many cases of one claim: the suite draws some of them by seed; ORTHOPLEX_ALL_CASES=1 (`make test-all`) runs all."""

import os
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
ALL_CASES = os.environ.get("ORTHOPLEX_ALL_CASES", "") not in ("", "0")
SEED = int(os.environ.get("ORTHOPLEX_SEED", "0"))


def some(many: int, few: int) -> int:
    """How often something is done that is drawn anyway: `many` times, or `few` in the suite."""
    return many if ALL_CASES else few


def sample(cases: Sequence[T], few: int) -> list[T]:
    """All cases, or `few` of them in their order, drawn by the seed: which ones is the same each time."""
    if ALL_CASES:
        return list(cases)
    drawn = sorted(random.Random(SEED).sample(range(len(cases)), min(few, len(cases))))
    return [cases[place] for place in drawn]
