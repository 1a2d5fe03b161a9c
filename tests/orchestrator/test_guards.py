"""A guard reads the validation matrix and the parameters kept, and a value on its bound passes."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.config import GuardConfig
from orchestrator.guards import Decision, decide
from orchestrator.state import RunState

GO_ON = Decision(True)


@pytest.fixture
def two_tasks(fake_run: Callable[..., Any]) -> RunState:
    """Validation: AA (0.8 + 0.7) / 2 = 0.75, forgetting 0.9 − 0.8 = 0.1. Test: 0.1 and 0.9. Parameters: 500."""
    run = fake_run("a", "b")
    run.commit([0.9, 0.2], [1.0, 0.0], parameters=200)
    run.commit([0.8, 0.7], [0.1, 0.1], parameters=300)
    return run.state


def test_no_guards(two_tasks: RunState) -> None:
    assert decide(GuardConfig(), two_tasks) == GO_ON


@pytest.mark.parametrize(
    ("guards", "reason"),
    [
        ({"max_forgetting": 0.1}, ""),  # on the bound; 0.9 − 0.8 is 0.09999999999999998 in floating point
        ({"max_forgetting": 0.099}, "forgetting 0.1000 is above guards.max_forgetting 0.099"),
        ({"max_forgetting": 0.0}, "forgetting 0.1000 is above guards.max_forgetting 0.0"),
        ({"min_average_accuracy": 0.75}, ""),
        ({"min_average_accuracy": 0.751}, "AA 0.7500 is below guards.min_average_accuracy 0.751"),
        ({"max_active_parameters": 500}, ""),
        ({"max_active_parameters": 499}, "500 parameters are above guards.max_active_parameters 499"),
        (
            {"max_forgetting": 0.05, "min_average_accuracy": 0.9, "max_active_parameters": 1},
            "forgetting 0.1000 is above guards.max_forgetting 0.05; "
            "AA 0.7500 is below guards.min_average_accuracy 0.9; "
            "500 parameters are above guards.max_active_parameters 1",
        ),
    ],
)
def test_bounds(two_tasks: RunState, guards: dict[str, float], reason: str) -> None:
    assert decide(GuardConfig(**guards), two_tasks) == Decision(not reason, reason)


def test_a_bound_is_not_missed_by_rounding(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a", "b")
    run.commit([0.9, 0.0])
    run.commit([0.6, 0.7])  # 0.9 − 0.6 = 0.30000000000000004 in floating point, and is 0.3; (0.6 + 0.7) / 2 = 0.65
    assert decide(GuardConfig(max_forgetting=0.3, min_average_accuracy=0.65), run.state) == GO_ON


def test_what_is_not_measured_stops_nothing(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a", "b")
    strict = GuardConfig(max_forgetting=0.0, min_average_accuracy=1.0, max_active_parameters=1)
    assert decide(strict, run.state) == GO_ON
    run.commit([1.0, 0.0], parameters=1)
    assert decide(strict, run.state) == GO_ON  # one task cannot be forgotten yet
