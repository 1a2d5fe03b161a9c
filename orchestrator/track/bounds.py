"""Bounds on a stream's accuracy, forgetting and size: one verdict, for guards that stop a run and for promotion."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from orchestrator.log.decision import Decision
from orchestrator.track.metrics import points

TOLERANCE = 1e-9  # 0.9 − 0.85 is above 0.05 in floating point; a value on its bound passes


class Bounds(Protocol):
    """The figures that may be bounded; None switches a bound off. Accuracy and forgetting are fractions."""

    @property
    def min_average_accuracy(self) -> float | None:
        """The least AA."""

    @property
    def max_forgetting(self) -> float | None:
        """The most forgetting."""

    @property
    def max_active_parameters(self) -> int | None:
        """The most parameters of all tasks together."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The judged figures, after `tasks` tasks; None: not measured. AA is defined from the first task on, forgetting
    from the second on."""

    tasks: int
    average_accuracy: float | None
    forgetting: float | None
    active_parameters: int | None


def above(value: float, bound: float) -> bool:
    """Whether a value is above its bound, by more than TOLERANCE."""
    return value > bound + TOLERANCE


def breaches(bounds: Bounds, measured: Measured, section: str = "") -> list[str]:
    """The reasons why bounds do not hold, one line per bound, see `judge`."""
    return [each.reason for each in judge(bounds, measured, "", section) if each.verdict == "stop"]


def judge(bounds: Bounds, measured: Measured, subject: str, section: str = "") -> list[Decision]:
    """One decision per bound that is set: `stop` or `go_on`. A bound on a figure that was not measured does not hold.

    `section` heads the names of the bounds, as in `guards.`
    """
    figures = (
        Figure("min_average_accuracy", "AA of {} is", "AA was", measured.average_accuracy, below=True),
        Figure("max_forgetting", "forgetting of {} is", "forgetting was", measured.forgetting, since=2),
        Figure(
            "max_active_parameters", "{} parameters are", "active parameters were", measured.active_parameters, since=0
        ),
    )
    asked = [(figure, bound) for figure in figures if (bound := getattr(bounds, figure.key)) is not None]
    return [figure.judged(bound, subject, section) for figure, bound in asked if measured.tasks >= figure.since]


class Figure(NamedTuple):
    """A measured value that must not be above its bound (`below`: below it), from `since` tasks on."""

    key: str
    shown: str
    missing: str
    value: float | None
    below: bool = False
    since: int = 1

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction, which people read in points."""
        return not self.key.endswith("_parameters")

    def judged(self, bound: float, subject: str, section: str) -> Decision:
        """The decision, and why."""
        rule = f"{section}{self.key}"
        if self.value is None:
            broken, reason = True, f"{self.missing} not measured, but {rule} asks for it"
        else:
            broken = above(bound, self.value) if self.below else above(self.value, bound)
            side = ("below" if self.below else "above") if broken else "within"
            value, limit = (points(self.value), f" ({points(bound)})") if self.is_share else (f"{self.value}", "")
            reason = f"{self.shown.format(value)} {side} {rule} {bound}{limit}"
        verdict = "stop" if broken else "go_on"
        return Decision(rule=rule, subject=subject, measured=self.value, bound=bound, verdict=verdict, reason=reason)
