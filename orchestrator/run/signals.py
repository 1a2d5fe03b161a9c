"""Ctrl-C and SIGTERM as an exception at a place where it can be acted on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cluster.errors import Interrupted


@contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Turns SIGINT and SIGTERM into `Interrupted`, raised by the yielded check; a second one ends at once.

    To be entered after `ray.init`, which sets handlers of its own. Outside the main thread it does nothing.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    def check() -> None:
        if received:
            name = signal.Signals(received[0]).name
            say(f"{name}: leaving; a task in training is kept first (once more to leave at once)")
            raise Interrupted(f"interrupted by {name}")

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
