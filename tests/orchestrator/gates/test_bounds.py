"""One verdict on bounds, for guards and promotion."""

import pytest

from orchestrator.config.run import GuardConfig
from orchestrator.gates.bounds import TOLERANCE, Measured, above, judge
from orchestrator.log.decision import stops
from orchestrator.track.rules import PromotionRule

ALL = {"min_average_accuracy": 0.8, "max_forgetting": 0.1, "max_active_parameters": 100}
TWO = Measured(tasks=2, average_accuracy=0.8, forgetting=0.1, active_parameters=100)
NOT_MEASURED = Measured(tasks=2, average_accuracy=None, forgetting=None, active_parameters=None)


def test_a_value_on_its_bound_passes() -> None:
    assert stops(judge(PromotionRule(**ALL), TWO, "")) == []
    rounded = Measured(tasks=2, average_accuracy=0.8 - TOLERANCE / 2, forgetting=0.9 - 0.8, active_parameters=100)
    assert rounded.forgetting != 0.1 and stops(judge(PromotionRule(**ALL), rounded, "")) == []
    assert not above(0.1 + TOLERANCE / 2, 0.1) and above(0.1 + 2 * TOLERANCE, 0.1)


def test_each_breach_is_a_line() -> None:
    worse = Measured(tasks=2, average_accuracy=0.7, forgetting=0.2, active_parameters=101)
    assert stops(judge(GuardConfig(**ALL), worse, "", "guards.")) == [
        "AA of 70.00 points is below guards.min_average_accuracy 0.8 (80.00 points)",
        "forgetting of 20.00 points is above guards.max_forgetting 0.1 (10.00 points)",
        "101 parameters are above guards.max_active_parameters 100",
    ]
    assert stops(judge(GuardConfig(), worse, "")) == []


@pytest.mark.parametrize("kind", [GuardConfig, PromotionRule])
def test_what_was_not_measured_does_not_hold(kind: type[GuardConfig | PromotionRule]) -> None:
    said = stops(judge(kind(**ALL), NOT_MEASURED, ""))
    assert len(said) == 3 and all("not measured" in line for line in said)
    assert stops(judge(kind(), NOT_MEASURED, "")) == []


def test_what_is_not_defined_yet_is_not_asked_for() -> None:
    none = Measured(tasks=0, average_accuracy=None, forgetting=None, active_parameters=0)
    one = Measured(tasks=1, average_accuracy=0.8, forgetting=None, active_parameters=100)
    assert stops(judge(GuardConfig(**ALL), none, "")) == stops(judge(GuardConfig(**ALL), one, "")) == []


def judged(measured: Measured, *, final: bool, **bounds: float) -> list[tuple[str, str]]:
    found = judge(GuardConfig.model_validate(bounds), measured, "", final=final)
    return [(each.rule, each.verdict) for each in found]


@pytest.mark.parametrize("final", [False, True])
def test_bounds_read_only_tasks_of_their_kind(final: bool) -> None:
    """Of three tasks the last but one has an accuracy: AA is due, and something can have been forgotten; so for nll."""
    mixed = Measured(
        tasks=3, average_accuracy=0.5, forgetting=0.0, active_parameters=1, by_loss=frozenset({0, 2}), nll_increase=0.25
    )
    bounds = {"min_average_accuracy": 0.6, "max_forgetting": 0.1, "max_nll_increase": 0.25}
    assert judged(mixed, final=final, **bounds) == [
        ("min_average_accuracy", "stop"), ("max_forgetting", "go_on"), ("max_nll_increase", "go_on")
    ]  # fmt: skip
    accurate = Measured(tasks=2, average_accuracy=0.7, forgetting=0.0, active_parameters=1)
    assert judged(accurate, final=final, max_nll_increase=0.0) == []  # none of its tasks has an nll to rise


def test_a_stream_without_accuracy_may_still_get_a_task_that_has_one_unless_it_is_promoted() -> None:
    only = Measured(
        tasks=2,
        average_accuracy=None,
        forgetting=None,
        active_parameters=1,
        by_loss=frozenset({0, 1}),
        nll_increase=0.0,
    )
    bounds = {"min_average_accuracy": 0.1, "max_forgetting": 0.9}
    assert judged(only, final=False, **bounds) == []
    assert judged(only, final=True, **bounds) == [("min_average_accuracy", "stop"), ("max_forgetting", "stop")]
