"""Figures that bounds are compared with, by hand from small matrices."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.config.run import GuardConfig
from orchestrator.gates.bounds import judge
from orchestrator.gates.figures import forgotten, measured, new_tasks, worst_forgotten
from orchestrator.track.state import RunState

COSTED = {"cost": {"gpu_hour": 36.0, "currency": "EUR"}, "cluster": {"use_gpu": True}}
ADAPTER = {"target_modules": ["dense"], "orthogonality": {"side": "both", "weight": 5.0}}


@pytest.fixture
def three(fake_run: Callable[..., Any]) -> RunState:
    """Validation: a goes 0.9, 0.5, 0.6; b goes 0.7, 0.6; c has 0.4."""
    from tests.orchestrator.conftest import config_of

    run = fake_run("a", "b", "c", config=config_of("abc", adapter=ADAPTER, **COSTED))
    run.commit([0.9], parameters=10)
    run.commit([0.5, 0.7], parameters=20)
    full = {"m": {"written": 0.25, "read": 0.75, "free": 4, "dropped": 0.0}}
    run.commit([0.6, 0.6, 0.4], parameters=30, occupancy=full)
    state: RunState = run.state
    return state


def test_every_figure(three: RunState) -> None:
    found = measured(three)
    assert (found.tasks, found.new, found.active_parameters, found.task_parameters) == (3, {2}, 60, 30)
    assert found.average_accuracy == pytest.approx(1.6 / 3) and found.new_accuracy == pytest.approx(0.4)
    assert found.forgetting == pytest.approx((0.3 + 0.1) / 2)
    assert (found.worst, found.task_forgetting) == ("a", pytest.approx(0.3))
    assert found.capacity_left == pytest.approx(0.25) and found.fullest.startswith("the read directions of m fill 75%")
    # three tasks of 2 s on 2 workers with a GPU each: 12 s, at 36 an hour
    assert (found.cost, found.currency) == (pytest.approx(0.12), "EUR")


def test_where_scores_were_best(three: RunState) -> None:
    assert forgotten(three) == {0: 0, 1: 1} and worst_forgotten(three) == (0, pytest.approx(0.3))
    assert forgotten(three.upto(1)) == {} and worst_forgotten(three.upto(1)) is None
    assert new_tasks(three.upto(2)) == {1} and new_tasks(three.upto(0)) == frozenset()


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"min_new_accuracy": 0.41}, "accuracy of 40.00 points on the new task is below min_new_accuracy 0.41 "
                                     "(41.00 points)"),
        ({"max_task_forgetting": 0.2}, "forgetting of 30.00 points of task a is above max_task_forgetting 0.2 "
                                       "(20.00 points)"),
        ({"max_task_parameters": 29}, "30 parameters of the new task are above max_task_parameters 29"),
        ({"min_capacity_left": 0.3}, "a share of 0.2500 of the width left, as the read directions of m fill 75% of "
                                     "its width, is below min_capacity_left 0.3"),
        ({"max_cost": 0.1}, "a cost of 0.1200 EUR is above max_cost 0.1"),
    ],
)  # fmt: skip
def test_every_new_bound(three: RunState, bound: dict[str, float], said: str) -> None:
    (decision,) = judge(GuardConfig.model_validate(bound), measured(three), "v3")
    assert (decision.verdict, decision.reason) == ("stop", said)
    ((key, value),) = bound.items()
    easier = GuardConfig.model_validate({key: value * (2 if key.startswith("max") else 0.5)})
    assert [each.verdict for each in judge(easier, measured(three), "v3")] == ["go_on"]


def test_what_is_not_known_does_not_hold_and_is_not_asked_for_before_the_first_task(three: RunState) -> None:
    all_of_them = GuardConfig(min_new_accuracy=0.1, max_task_forgetting=0.9, max_cost=9, min_capacity_left=0.1)
    assert judge(all_of_them, measured(three.upto(0)), "v0") == []
    published = three.upto(1).__class__(team="t", name="x", commits=three.commits[:1], tasks=three.tasks[:1])
    found = judge(GuardConfig(max_cost=9, min_capacity_left=0.1), measured(published), "v1")
    assert [each.verdict for each in found] == ["stop", "stop"] and all("not measured" in each.reason for each in found)
