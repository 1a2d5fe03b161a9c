"""Rules set beforehand that stop a stream. Pure functions of the run's state; the controller acts on them."""

from dataclasses import dataclass

from orchestrator.config import GuardConfig
from orchestrator.state import RunState

EPSILON = 1e-9  # 0.9 − 0.85 is above 0.05 in floating point; a value on its bound passes


@dataclass(frozen=True)
class Decision:
    """Whether the stream goes on, and why not."""

    go_on: bool
    reason: str = ""


def decide(guards: GuardConfig, state: RunState) -> Decision:
    """Compares the validation matrix and the parameters kept so far with the guards' bounds."""
    measured = state.metrics("validation")
    parameters = state.total("active_parameters")
    lost, reached = measured["forgetting"], measured["aa"]
    most_lost, least, most = guards.max_forgetting, guards.min_average_accuracy, guards.max_active_parameters
    reasons = []
    if most_lost is not None and lost is not None and lost > most_lost + EPSILON:
        reasons.append(f"forgetting {lost:.4f} is above guards.max_forgetting {most_lost}")
    if least is not None and reached is not None and reached < least - EPSILON:
        reasons.append(f"AA {reached:.4f} is below guards.min_average_accuracy {least}")
    if most is not None and parameters > most:
        reasons.append(f"{parameters} parameters are above guards.max_active_parameters {most}")
    return Decision(not reasons, "; ".join(reasons))
