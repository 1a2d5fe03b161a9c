"""Waits for a store that is out of reach: passing failures are retried, with jittered back-off, until patience ends."""

import logging
import math
import os
import random
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from cluster.errors import ConfigError, StoreError

PATIENCE = "ORTHOPLEX_STORE_PATIENCE_S"
PATIENCE_S, FIRST_WAIT_S, LONGEST_WAIT_S, TELL_AFTER_S = 120.0, 0.1, 5.0, 3.0
T = TypeVar("T")
log = logging.getLogger("orthoplex.store")


class PassingError(StoreError):
    """A failure that may pass. Retries end after `at_most_s` seconds if that is less than the patience."""

    at_most_s = math.inf


def patience_s() -> float:
    """Seconds that a store may be away: $ORTHOPLEX_STORE_PATIENCE_S, or 120. Raises ConfigError if it is no number."""
    text = os.environ.get(PATIENCE, str(PATIENCE_S))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f"{PATIENCE}={text!r}: give seconds, as in 120; 0 tries once")
    return value


def wait_s(attempt: int) -> float:
    """Seconds to wait after failure number `attempt`, from 0: uniform in [0, min(5, 0.1 · 2^attempt)]."""
    return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 16)))


def patiently(action: Callable[[], T]) -> T:
    """The result of `action`. It is called again after each PassingError. If patience ends, the last one is raised.

    `action` must be safe to repeat, even if it took effect and only its answer was lost.
    """
    started, patience, told = time.monotonic(), patience_s(), False
    for attempt in count():
        try:
            return action()
        except PassingError as error:
            waited, pause = time.monotonic() - started, wait_s(attempt)
            left = min(patience, error.at_most_s) - waited
            if pause > left:
                error.args = (f"{error}; tried for {waited:.0f} s ({PATIENCE})",)
                raise
            if waited > TELL_AFTER_S and not told:
                told = True
                log.warning("%s; trying for another %.0f s", error, left)
        time.sleep(pause)
    raise AssertionError
