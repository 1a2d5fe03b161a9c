"""Ctrl-C and SIGTERM, from the first moment of a command to its last.

The first one is raised as KeyboardInterrupt, so that everything unwinds. Library code may swallow that, above all while
it is imported; so it is remembered, and `check` raises it again. Another one does not wait for what unwinds: the
process says so, removes its temporary folders with all that uses them, and ends. Signals that come then are ignored.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from cluster.temporary import remove_own

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 130
WORD = "orthoplex: interrupted\n"
told: list[int] = []  # the signals that have come


@contextmanager
def leaving() -> Iterator[None]:
    """The block, which is a whole command, ends with exit code 130 and a word on either signal. One that the process
    was started to ignore stays ignored. Outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told.clear()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, leave)
        yield
    except SystemExit as end:
        if told and end.code == EXIT_CODE:  # the word is said
            end_now("")
        raise
    except BaseException:
        if told:
            end_now()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, _frame: FrameType | None) -> None:
    """The handler of both signals."""
    told.append(number)
    if len(told) > 1:
        end_now()
    raise KeyboardInterrupt


def check() -> None:
    """Raises KeyboardInterrupt if a signal has come, in case that was swallowed."""
    if told:
        raise KeyboardInterrupt


def forget() -> None:
    """The signals that have come are dealt with; the next one is the first again."""
    told.clear()


def end_now(word: str = WORD) -> NoReturn:
    """Ends the process with exit code 130, without its temporary folders. Nothing waits for threads or unwinds."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with suppress(Exception):  # a stream may be closed, or in use by what the signal has interrupted
        sys.stdout.flush()
    with suppress(Exception):
        os.write(sys.stderr.fileno(), word.encode())
    with suppress(Exception):
        remove_own()
    os._exit(EXIT_CODE)
