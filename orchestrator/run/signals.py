"""Ctrl-C and SIGTERM as an exception at a place where it can be acted on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cluster import leaving
from cluster.errors import Interrupted


@contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Turns SIGINT and SIGTERM into `Interrupted`, raised by the yielded check. A second one is a KeyboardInterrupt,
    and another ends the process at once, see `cluster.leaving`. A signal that came before the block counts as the
    first. Outside the main thread it does nothing.
    """
    received = [*leaving.told]

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        leaving.told[:] = received
        if len(received) > 2:
            leaving.end_now()
        if len(received) == 2:
            raise KeyboardInterrupt

    def check() -> None:
        if received:
            name = signal.Signals(received[0]).name
            say(f"{name}: leaving; a task in training is kept first (once more to leave at once)")
            raise Interrupted(f"interrupted by {name}")

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    previous = {number: signal.signal(number, handle) for number in leaving.SIGNALS}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if leaving.leave not in previous.values():  # Python code that goes on, and not a command
            leaving.forget()
