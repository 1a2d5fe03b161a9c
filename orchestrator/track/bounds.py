"""Bounds on what a stream learned, forgot and takes: one verdict, for guards that stop a run and for promotion."""

from dataclasses import dataclass
from typing import Protocol

TOLERANCE = 1e-9  # 0.9 − 0.85 is above 0.05 in floating point; a value on its bound passes


class Bounds(Protocol):
    """What may be bounded; None switches a bound off. Accuracy and forgetting are fractions."""

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
    """What is judged, after `tasks` tasks; None was not measured. AA is defined from the first task on, forgetting
    from the second on."""

    tasks: int
    average_accuracy: float | None
    forgetting: float | None
    active_parameters: int | None


def above(value: float, bound: float) -> bool:
    """Whether a value is above its bound, by more than TOLERANCE."""
    return value > bound + TOLERANCE


def breaches(bounds: Bounds, measured: Measured, section: str = "") -> list[str]:
    """Each bound that does not hold, a line each; what a bound asks for and was not measured does not hold.

    `section` heads the names of the bounds, as in `guards.`
    """
    found = list[str]()
    least, most_lost, most = bounds.min_average_accuracy, bounds.max_forgetting, bounds.max_active_parameters
    reached, lost, parameters = measured.average_accuracy, measured.forgetting, measured.active_parameters
    if least is not None and measured.tasks >= 1:
        if reached is None:
            found.append(f"AA was not measured, but {section}min_average_accuracy asks for it")
        elif above(least, reached):
            found.append(f"AA {reached:.4f} is below {section}min_average_accuracy {least}")
    if most_lost is not None and measured.tasks >= 2:
        if lost is None:
            found.append(f"forgetting was not measured, but {section}max_forgetting asks for it")
        elif above(lost, most_lost):
            found.append(f"forgetting {lost:.4f} is above {section}max_forgetting {most_lost}")
    if most is not None:
        if parameters is None:
            found.append(f"active parameters were not measured, but {section}max_active_parameters asks for them")
        elif parameters > most:
            found.append(f"{parameters} parameters are above {section}max_active_parameters {most}")
    return found
