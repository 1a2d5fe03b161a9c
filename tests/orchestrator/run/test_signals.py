"""Signals while tasks are trained: the first is polite, the second unwinds, the third ends the process."""

import os
import signal
from collections.abc import Iterator

import pytest

from cluster import leaving
from cluster.errors import Interrupted
from orchestrator.run.signals import stop_signals


class EndedError(Exception):
    """In place of the end of the process."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def end() -> None:
        raise EndedError

    monkeypatch.setattr(leaving, "end_now", end)
    leaving.forget()
    yield
    leaving.forget()


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_one_two_three() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals(said.append) as check:
        check()
        send(signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
                check()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        with pytest.raises(EndedError):
            send(signal.SIGTERM)
    assert said[0].startswith("SIGTERM: leaving; a task in training is kept first")
    assert signal.getsignal(signal.SIGTERM) == before and not leaving.told  # Python code that goes on


def test_in_a_command_they_are_counted_together() -> None:
    """One that was swallowed while Ray started is the first; one that comes afterwards ends at once."""
    with leaving.leaving():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        with stop_signals(lambda _: None) as check, pytest.raises(Interrupted, match="interrupted by SIGINT"):
            check()
        with pytest.raises(EndedError):
            send(signal.SIGTERM)
        leaving.forget()
        with stop_signals(lambda _: None):
            send(signal.SIGTERM)
        with pytest.raises(EndedError):
            send(signal.SIGTERM)
        leaving.forget()
