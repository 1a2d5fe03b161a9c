"""The interface of sinks, and the one place that keeps a broken sink from stopping the run that it follows."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

Value = bool | int | float | str | None
Figures = Mapping[str, float]
Status = Literal["finished", "stopped", "interrupted", "failed"]


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """The run that a sink follows: `team/name` in the store `store`, a trial of the sweep `sweep` if that is given.

    `parameters` are the settings that make it what it is, by dotted key.
    """

    store: str
    team: str
    name: str
    sweep: str | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """team/name, which names one run of a store."""
        return f"{self.team}/{self.name}"

    @property
    def group(self) -> str:
        """What it is shown beside: the runs of its team, or the trials of its sweep."""
        return f"{self.team}/{self.sweep}" if self.sweep else self.team


class Sink(Protocol):
    """Follows one run. One sink is made per run and start of the command. It may raise any exception."""

    def start(self, run: Tracked) -> None:
        """Begins to follow a run, or goes on where an earlier start of the command left it."""

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        """Takes figures, all finite, at a step. With `task` they are of that task alone, and so is the step's count."""

    def end(self, status: Status, summary: Figures) -> None:
        """Takes how the run ended and its last figures. A run that was not finished may be started again."""


Maker = Callable[[], Sink]


class Sinks:
    """Makes the sinks of each run that a command follows. A kind of sink that raises is left out from then on."""

    def __init__(self, makers: Mapping[str, Maker], say: Callable[[str], None]) -> None:
        """`makers` are by the key of `tracking` that asks for them."""
        self.makers, self.say = dict(makers), say

    def start(self, run: Tracked) -> "Following":
        """Has a sink of each kind follow the run."""
        following = Following(self, {kind: make() for kind, make in self.makers.items()})
        following.tell(lambda sink: sink.start(run))
        return following

    def drop(self, kind: str, error: Exception) -> None:
        """Leaves a kind of sink out, and says so once."""
        if self.makers.pop(kind, None):
            with suppress(OSError):  # nobody may be there to read it
                self.say(f"warning: tracking.{kind} is left out from now on: {type(error).__name__}: {error}")


class Following:
    """The sinks of one run as one that never raises."""

    def __init__(self, sinks: Sinks, each: Mapping[str, Sink]) -> None:
        self.sinks, self.each = sinks, each

    def log(self, values: Mapping[str, float | None], *, step: int, task: str | None = None) -> None:
        """As `Sink.log`. What was not measured, NaN and infinity are left out."""
        if known := finite(values):
            self.tell(lambda sink: sink.log(known, step=step, task=task))

    def end(self, status: Status, summary: Mapping[str, float | None]) -> None:
        """As `Sink.end`."""
        self.tell(lambda sink: sink.end(status, finite(summary)))

    def tell(self, act: Callable[[Sink], None]) -> None:
        """Does this with each sink whose kind is not left out."""
        for kind, sink in self.each.items():
            if kind in self.sinks.makers:
                try:
                    act(sink)
                except Exception as error:
                    self.sinks.drop(kind, error)


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """The figures that are numbers."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
