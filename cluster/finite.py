"""Values that JSON can represent."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The value with None for every NaN and infinity in it."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
