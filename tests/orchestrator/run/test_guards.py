"""A guard reads the validation matrix and the parameters kept, and a value on its bound passes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config.run import GuardConfig
from orchestrator.log.decision import Decision
from orchestrator.run.guards import forecast, full, judged, rounded_off
from orchestrator.track.events import Kept
from orchestrator.track.state import RunState
from trainers.method_config import OrthogonalityConfig

FREE = OrthogonalityConfig()


def decide(guards: GuardConfig, bases: OrthogonalityConfig | None, state: RunState, left: int) -> list[Decision]:
    """All that may stop a run, after its newest task and with `left` to come."""
    return judged(guards, state) + full(bases, state, left)


def stops(*asked: Any) -> str:
    """Why the stream is stopped, empty if it goes on."""
    return "; ".join(each.reason for each in decide(*asked) if each.verdict == "stop")


@pytest.fixture
def two_tasks(fake_run: Callable[..., Any]) -> RunState:
    """Validation: AA (0.8 + 0.7) / 2 = 0.75, forgetting 0.9 − 0.8 = 0.1. Test: 0.1 and 0.9. Parameters: 500."""
    run = fake_run("a", "b")
    run.commit([0.9, 0.2], [1.0, 0.0], parameters=200)
    run.commit([0.8, 0.7], [0.1, 0.1], parameters=300)
    return run.state


def test_no_guards(two_tasks: RunState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bound nothing is measured, which would take seconds after hundreds of tasks."""
    monkeypatch.setattr(RunState, "metrics", None)
    assert decide(GuardConfig(), FREE, two_tasks, 0) == []


@pytest.mark.parametrize(
    ("guards", "reason"),
    [
        ({"max_forgetting": 0.1}, ""),  # on the bound; 0.9 − 0.8 is 0.09999999999999998 in floating point
        ({"max_forgetting": 0.099}, "forgetting of 10.00 points is above guards.max_forgetting 0.099 (9.90 points)"),
        ({"max_forgetting": 0.0}, "forgetting of 10.00 points is above guards.max_forgetting 0.0 (0.00 points)"),
        ({"min_average_accuracy": 0.75}, ""),
        (
            {"min_average_accuracy": 0.751},
            "AA of 75.00 points is below guards.min_average_accuracy 0.751 (75.10 points)",
        ),
        ({"max_active_parameters": 500}, ""),
        ({"max_active_parameters": 499}, "500 parameters are above guards.max_active_parameters 499"),
        (
            {"max_forgetting": 0.05, "min_average_accuracy": 0.9, "max_active_parameters": 1},
            "AA of 75.00 points is below guards.min_average_accuracy 0.9 (90.00 points); "
            "forgetting of 10.00 points is above guards.max_forgetting 0.05 (5.00 points); "
            "500 parameters are above guards.max_active_parameters 1",
        ),
    ],
)
def test_bounds(two_tasks: RunState, guards: dict[str, float], reason: str) -> None:
    assert stops(GuardConfig(**guards), FREE, two_tasks, 0) == reason


def test_each_guard_is_a_decision(two_tasks: RunState) -> None:
    """Also one that passes; what is written in a log can be read again."""
    passed, stopped = decide(GuardConfig(min_average_accuracy=0.5, max_active_parameters=9), FREE, two_tasks, 0)
    assert passed == Decision(
        rule="guards.min_average_accuracy", subject="v2", measured=0.75, bound=0.5, verdict="go_on",
        reason="AA of 75.00 points is within guards.min_average_accuracy 0.5 (50.00 points)",
    )  # fmt: skip
    assert (stopped.rule, stopped.measured, stopped.bound) == ("guards.max_active_parameters", 500, 9)
    assert Decision.model_validate(json.loads(json.dumps(stopped.model_dump()))) == stopped


def test_a_bound_is_not_missed_by_rounding(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a", "b")
    run.commit([0.9, 0.0])
    run.commit([0.6, 0.7])  # 0.9 − 0.6 = 0.30000000000000004 in floating point, and is 0.3; (0.6 + 0.7) / 2 = 0.65
    assert stops(GuardConfig(max_forgetting=0.3, min_average_accuracy=0.65), FREE, run.state, 0) == ""


def test_what_is_not_measured_stops_nothing(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a", "b")
    strict = GuardConfig(max_forgetting=0.0, min_average_accuracy=1.0, max_active_parameters=1)
    assert stops(strict, FREE, run.state, 1) == ""
    run.commit([1.0, 0.0], parameters=1)
    assert stops(strict, FREE, run.state, 1) == ""  # one task cannot be forgotten yet


def filled(written: float, read: float) -> dict[str, dict[str, float]]:
    return {
        "a": {"written": 0.1, "read": 0.1, "free": 10, "dropped": 0.0},
        "b": {"written": written, "read": read, "free": 1, "dropped": 0.0},
    }


@pytest.mark.parametrize(
    ("side", "saturation", "left", "why"),
    [
        ("output", "stop", 1, "the written directions of b fill 85%"),
        ("both", "stop", 1, "the read directions of b fill 95%"),
        ("input", "stop", 1, "the read directions of b fill 95%"),
        ("both", "stop", 0, ""),  # nothing left to train: nothing bites
        ("both", "drop", 1, ""),
    ],
)
def test_a_full_basis_stops_what_would_need_it(
    fake_run: Callable[..., Any], side: Any, saturation: Any, left: int, why: str
) -> None:
    run = fake_run("a", "b", "c")
    run.commit([0.9, 0.2, 0.2], occupancy=filled(0.4, 0.5))
    run.commit([0.9, 0.9, 0.2], occupancy=filled(0.85, 0.95))
    orthogonality = OrthogonalityConfig(weight=5.0, side=side, saturation=saturation, max_occupancy=0.8)
    said = stops(GuardConfig(), orthogonality, run.state, left)
    assert said.startswith(why) and bool(said) == bool(why)


@pytest.mark.parametrize("saturation", ["stop", "drop"])
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"side": "both"}, "the read directions of b fill 100% of its width, and what a further task learns there is"),
        ({"side": "output", "mode": "projection"}, "the written directions of b fill 100%"),
        ({"side": "output"}, ""),  # a penalty leaves something
        ({"side": "output", "weight": 0.0}, ""),  # nothing is kept out
        ({"side": "none"}, ""),
    ],
)
def test_a_layer_without_a_direction_left_stops_also_where_all_may_be_filled(
    fake_run: Callable[..., Any], settings: Any, why: str, saturation: Any
) -> None:
    run = fake_run("a", "b", "c")
    run.commit([0.9, 0.2, 0.2], occupancy=filled(1.0, 1.0))
    orthogonality = OrthogonalityConfig(**{"weight": 5.0, "saturation": saturation, "max_occupancy": 1.0, **settings})
    said = stops(GuardConfig(), orthogonality, run.state, 1)
    assert said.startswith(why) and bool(said) == bool(why)
    assert stops(GuardConfig(), orthogonality, run.state, 0) == ""


@pytest.mark.parametrize(("share", "warned"), [(0.55, True), (0.8999, True), (0.9, False), (1.02, False)])
def test_a_change_that_rounding_loses_is_a_warning(two_tasks: RunState, share: float, warned: bool) -> None:
    assert rounded_off(two_tasks) == []  # not measured
    last = two_tasks.commits[-1].model_copy(update={"kept": Kept(overall=share, modules={"a": 0.95, "b": 0.21})})
    state = replace(two_tasks, commits=(*two_tasks.commits[:-1], last))
    found = rounded_off(state)
    assert bool(found) == warned
    if warned:
        assert (found[0].rule, found[0].verdict, found[0].measured, found[0].bound) == (
            "adapter.rounding", "warn", share, 0.9,
        )  # fmt: skip
        for part in (
            "of the change that the tasks make",
            "and b 21%",
            "stochastic",
            "none, which holds the weights that change in float32",
        ):
            assert part in found[0].reason


def test_saturation_is_announced_before_it_bites(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a", "b", "c", "d", "e")
    orthogonality = OrthogonalityConfig(weight=5.0, side="both", max_occupancy=0.8)
    assert forecast(orthogonality, run.state, 5) == []
    run.commit([0.9] + [0.2] * 4, occupancy=filled(0.2, 0.1))  # a fifth a task: room for (0.8 − 0.2) / 0.2 = 3 more
    assert forecast(orthogonality, run.state, 3) == []
    (warning,) = forecast(orthogonality, run.state, 4)
    assert (warning.verdict, warning.measured, warning.bound) == ("warn", 0.2, 0.8)
    for part in ("written directions of b fill 20%", "room for 3.0 of the 4 tasks left"):
        assert part in warning.reason
    assert stops(GuardConfig(), orthogonality, run.state, 4) == ""
