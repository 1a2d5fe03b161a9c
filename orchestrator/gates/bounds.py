"""One verdict on bounds: for a run's guards, for promotion, and for gates of a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.config.bounds import BoundsConfig
from orchestrator.log.decision import Decision
from orchestrator.track.metrics import points

TOLERANCE = 1e-9  # 0.9 − 0.85 is above 0.05 in floating point; a value on its bound passes
SHARES = ("min_average_accuracy", "min_new_accuracy", "max_forgetting", "max_task_forgetting")  # read in points


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The judged figures, after `tasks` tasks; None: not measured. `by_loss` are the tasks, from 0, that are judged by
    their loss and so have no accuracy. AA is defined from the first task of accuracy on; forgetting and the increase
    of the nll are from the first task on that comes after one of their kind.

    `new` are the tasks, from 0, that the last version learned. `worst` is the task that is forgotten most, `fullest`
    the basis with the least room, and `currency` that of the cost, each for people.
    """

    tasks: int
    average_accuracy: float | None
    forgetting: float | None
    active_parameters: int | None
    by_loss: frozenset[int] = frozenset()
    nll_increase: float | None = None
    new: frozenset[int] = frozenset()
    new_accuracy: float | None = None
    task_forgetting: float | None = None
    worst: str = ""
    task_parameters: int | None = None
    capacity_left: float | None = None
    fullest: str = ""
    cost: float | None = None
    currency: str = ""

    def has(self, tasks: int, *, by_loss: bool = False) -> bool:
        """Whether one of the first tasks is judged by its accuracy, or by its loss."""
        return any((index in self.by_loss) is by_loss for index in range(tasks))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the rows at hand leave open of a figure: with the confidence `level` it is above `low`, and with the same it
    is below `high`."""

    low: float
    high: float
    level: float

    def shown(self, value: str) -> str:
        """For people."""
        return f"{value}, at {100 * self.level:g}% confidence between {points(self.low)} and {points(self.high)}"

    def leaves_open(self, bound: float) -> bool:
        """Whether the figure may be on either side of a bound."""
        return above(bound, self.low) and above(self.high, bound)


def above(value: float, bound: float) -> bool:
    """Whether a value is above its bound, by more than TOLERANCE."""
    return value > bound + TOLERANCE


def judge(
    bounds: BoundsConfig,
    measured: Measured,
    subject: str,
    section: str = "",
    *,
    final: bool = False,
    noise: Mapping[str, Noise] | None = None,
) -> list[Decision]:
    """One decision per bound that is set and can be compared: `stop` or `go_on`. A bound on a figure that was not
    measured does not hold. One whose figure has `noise`, by key, is broken only outside of it.

    `section` heads the names of the bounds, as in `guards.` If no task is judged by accuracy, a bound on AA or
    forgetting does not hold if the stream is `final`, as a promoted one is; else tasks of accuracy may follow.
    """
    known, due = noise or {}, [each for each in figures(measured, final=final) if each.due]
    asked = [(each, bound) for each in due if (bound := getattr(bounds, each.key)) is not None]
    return [each.judged(bound, subject, section, known.get(each.key)) for each, bound in asked]


def figures(measured: Measured, *, final: bool) -> "tuple[Figure, ...]":
    """Every figure that may be bounded."""
    now, before = measured.tasks, measured.tasks - 1
    lacking = final and not measured.has(now)
    accuracy, forgotten = (measured.has(count) or (lacking and count > 0) for count in (now, before))
    named = f"forgetting of {{}} of task {measured.worst} is"
    return (
        Figure("min_average_accuracy", "AA of {} is", "AA was", measured.average_accuracy, accuracy, below=True),
        Figure(
            "min_new_accuracy", "accuracy of {} on the new task is", "the accuracy on the new task was",
            measured.new_accuracy, bool(measured.new - measured.by_loss) or lacking, below=True,
        ),
        Figure("max_forgetting", "forgetting of {} is", "forgetting was", measured.forgetting, forgotten),
        Figure("max_task_forgetting", named, "forgetting was", measured.task_forgetting, forgotten),
        Figure(
            "max_nll_increase", "an nll {} nats per token higher is", "nll was", measured.nll_increase,
            measured.has(before, by_loss=True),
        ),
        Figure("max_active_parameters", "{} parameters are", "active parameters were", measured.active_parameters),
        Figure(
            "max_task_parameters", "{} parameters of the new task are", "active parameters were",
            measured.task_parameters, now > 0,
        ),
        Figure(
            "min_capacity_left", f"a share of {{}} of the width left, as {measured.fullest}, is", "capacity was",
            measured.capacity_left, now > 0, below=True,
        ),
        Figure("max_cost", f"a cost of {{}} {measured.currency} is", "cost was", measured.cost, now > 0),
    )  # fmt: skip


class Figure(NamedTuple):
    """A measured value that must not be above its bound (`below`: below it), if it is `due`."""

    key: str
    shown: str
    missing: str
    value: float | None
    due: bool = True
    below: bool = False

    def judged(self, bound: float, subject: str, section: str, noise: Noise | None = None) -> Decision:
        """The decision, and why."""
        rule = f"{section}{self.key}"
        if self.value is None:
            reason = f"{self.missing} not measured, but {rule} asks for it"
            return Decision(rule=rule, subject=subject, bound=bound, verdict="stop", reason=reason)
        broken, reason = self._beyond(self.value, bound), self._compared(self.value, bound, rule)
        if noise:
            reason, broken = self._outside(noise, bound, reason, broken=broken)
        return Decision(
            rule=rule, subject=subject, measured=self.value, bound=bound, verdict="stop" if broken else "go_on",
            reason=reason, limits=(noise.low, noise.high) if noise else None,
        )  # fmt: skip

    def _beyond(self, value: float, bound: float) -> bool:
        """Whether a value is on the wrong side of the bound."""
        return above(bound, value) if self.below else above(value, bound)

    def _compared(self, value: float, bound: float, rule: str) -> str:
        side = ("below" if self.below else "above") if self._beyond(value, bound) else "within"
        shown, limit = (points(value), f" ({points(bound)})") if self.key in SHARES else (figure(value), "")
        return f"{self.shown.format(shown)} {side} {rule} {bound}{limit}"

    def _outside(self, noise: Noise, bound: float, reason: str, *, broken: bool) -> tuple[str, bool]:
        """The reason with the noise, and whether the bound is broken outside of it."""
        said = noise.shown(reason)
        if not noise.leaves_open(bound):
            return said, broken
        rows = "more rows would tell (evaluate.rows, or a larger validation split)"
        return f"{said}, so these rows cannot tell on which side it is; {rows}", False


def figure(value: float) -> str:
    """A count as it is, another number to four decimals."""
    return f"{value}" if isinstance(value, int) else f"{value:.4f}"
