"""Bounds on a stream's accuracy, forgetting, loss and size: one verdict, for a run's guards and for promotion."""

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
    def max_nll_increase(self) -> float | None:
        """The most that the nll per token of earlier tasks may have risen, in nats."""

    @property
    def max_active_parameters(self) -> int | None:
        """The most parameters of all tasks together."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The judged figures, after `tasks` tasks; None: not measured. `by_loss` are the tasks, from 0, that are judged by
    their loss and so have no accuracy. AA is defined from the first task of accuracy on; forgetting and the increase
    of the nll are from the first task on that comes after one of their kind."""

    tasks: int
    average_accuracy: float | None
    forgetting: float | None
    active_parameters: int | None
    by_loss: frozenset[int] = frozenset()
    nll_increase: float | None = None

    def has(self, tasks: int, *, by_loss: bool = False) -> bool:
        """Whether one of the first tasks is judged by its accuracy, or by its loss."""
        return any((index in self.by_loss) is by_loss for index in range(tasks))


def above(value: float, bound: float) -> bool:
    """Whether a value is above its bound, by more than TOLERANCE."""
    return value > bound + TOLERANCE


def breaches(bounds: Bounds, measured: Measured, section: str = "") -> list[str]:
    """The reasons why bounds do not hold, one line per bound, see `judge`."""
    return [each.reason for each in judge(bounds, measured, "", section) if each.verdict == "stop"]


def judge(
    bounds: Bounds, measured: Measured, subject: str, section: str = "", *, final: bool = False
) -> list[Decision]:
    """One decision per bound that is set and can be compared: `stop` or `go_on`. A bound on a figure that was not
    measured does not hold.

    `section` heads the names of the bounds, as in `guards.` If no task is judged by accuracy, a bound on AA or
    forgetting does not hold if the stream is `final`, as a promoted one is; else tasks of accuracy may follow.
    """
    now, before = measured.tasks, measured.tasks - 1
    lacking = final and not measured.has(now)
    accuracy, forgotten = (measured.has(count) or (lacking and count > 0) for count in (now, before))
    figures = (
        Figure("min_average_accuracy", "AA of {} is", "AA was", measured.average_accuracy, accuracy, below=True),
        Figure("max_forgetting", "forgetting of {} is", "forgetting was", measured.forgetting, forgotten),
        Figure(
            "max_nll_increase", "an nll {} nats per token higher is", "nll was", measured.nll_increase,
            measured.has(before, by_loss=True),
        ),
        Figure("max_active_parameters", "{} parameters are", "active parameters were", measured.active_parameters),
    )  # fmt: skip
    asked = [(each, bound) for each in figures if (bound := getattr(bounds, each.key)) is not None]
    return [each.judged(bound, subject, section) for each, bound in asked if each.due]


class Figure(NamedTuple):
    """A measured value that must not be above its bound (`below`: below it), if it is `due`."""

    key: str
    shown: str
    missing: str
    value: float | None
    due: bool = True
    below: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction, which people read in points."""
        return self.key in ("min_average_accuracy", "max_forgetting")

    def judged(self, bound: float, subject: str, section: str) -> Decision:
        """The decision, and why."""
        rule = f"{section}{self.key}"
        if self.value is None:
            broken, reason = True, f"{self.missing} not measured, but {rule} asks for it"
        else:
            broken = above(bound, self.value) if self.below else above(self.value, bound)
            side = ("below" if self.below else "above") if broken else "within"
            value, limit = (points(self.value), f" ({points(bound)})") if self.is_share else (figure(self.value), "")
            reason = f"{self.shown.format(value)} {side} {rule} {bound}{limit}"
        verdict = "stop" if broken else "go_on"
        return Decision(rule=rule, subject=subject, measured=self.value, bound=bound, verdict=verdict, reason=reason)


def figure(value: float) -> str:
    """A count as it is, another number to four decimals."""
    return f"{value}" if isinstance(value, int) else f"{value:.4f}"
