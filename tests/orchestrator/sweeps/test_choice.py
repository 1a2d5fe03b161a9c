"""The front and the recommended point against definitions written out anew, on exact numbers."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.sweeps.choice import choose, dominates
from orchestrator.sweeps.config import ChoiceConfig
from orchestrator.sweeps.sweep_state import SweepTrial
from tests.support.sweeps import finished, row, trial

Point = tuple[int, int, int, int]  # number, AA in 1/200, parameters, BWT in 1/100


def drawn(seed: int, count: int) -> list[Point]:
    """Points with many ties in each objective."""
    draw = random.Random(seed)
    return [(n, draw.randrange(120, 140), 100 * draw.randrange(1, 9), -draw.randrange(12)) for n in range(1, count + 1)]


def trials(points: Sequence[Point]) -> list[SweepTrial]:
    return [finished(number, aa / 200, parameters, bwt / 100) for number, aa, parameters, bwt in points]


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is at least as good as in both and better in one."""
    return [
        a for a in points if not any(b[1] >= a[1] and b[2] <= a[2] and (b[1] > a[1] or b[2] < a[2]) for b in points)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_the_front(seed: int) -> None:
    points = drawn(seed, 25)
    expected = sorted(front(points), key=lambda point: (point[2], point[0]))
    assert choose(trials(points), ChoiceConfig()).pareto == tuple(number for number, *_ in expected)


@pytest.mark.parametrize("seed", range(12))
def test_min_bwt_leaves_trials_out_before_the_front_is_drawn(seed: int) -> None:
    points = drawn(seed, 25)
    within = [point for point in points if point[3] >= -5]  # on the bound counts, −0.05 is no exact number
    choice = choose(trials(points), ChoiceConfig(min_bwt=-0.05))
    assert {*choice.pareto} == {number for number, *_ in front(within)}
    assert choice.recommended in choice.pareto


@pytest.mark.parametrize("within", [0, 1, 3, 10])
@pytest.mark.parametrize("seed", range(6))
def test_fewest_parameters(seed: int, within: int) -> None:
    """`within` in 1/200, so that points stand on the bound."""
    points = drawn(seed, 25)
    best = max(aa for _, aa, _, _ in points)
    near = [point for point in points if point[1] >= best - within]
    expected = min(near, key=lambda p: (p[2], -p[1], p[0]))
    choice = choose(trials(points), ChoiceConfig(within=within / 200))
    assert choice.recommended == expected[0]
    assert f"({expected[2]:,})" in choice.reason and f"within {within / 2:.1f} points" in choice.reason
    first = min(number for number, aa, _, _ in front(points) if aa == best)
    assert choice.reason.endswith(f": {expected[1] / 2:.1f} against {best / 2:.1f} points of trial {first}")


@pytest.mark.parametrize("most", [None, 100, 400, 800])
@pytest.mark.parametrize("seed", range(6))
def test_best_accuracy(seed: int, most: int | None) -> None:
    points = drawn(seed, 25)
    small = [point for point in points if most is None or point[2] <= most]
    expected = max(small, key=lambda p: (p[1], -p[2], -p[0]), default=None)
    choice = choose(trials(points), ChoiceConfig(rule="best_accuracy", max_parameters=most))
    assert choice.recommended == (expected[0] if expected else None)
    if expected:
        assert f"{expected[1] / 2:.1f}" in choice.reason and (most is None or f"{most:,}" in choice.reason)
    else:
        assert f"at most {most:,}" in choice.reason and "choice.max_parameters" in choice.reason


@pytest.mark.parametrize("rule", [ChoiceConfig(), ChoiceConfig(rule="best_accuracy"), ChoiceConfig(min_bwt=-0.03)])
@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_trials_is_nothing(seed: int, rule: ChoiceConfig) -> None:
    found = trials(drawn(seed, 15))
    shuffled = random.Random(seed).sample(found, len(found))
    assert choose(found, rule) == choose(shuffled, rule)


def test_equal_points_are_both_on_the_front_and_the_first_is_recommended() -> None:
    equal = [finished(3, 0.8, 100), finished(2, 0.8, 100), finished(1, 0.7, 100)]
    for rule in ("fewest_parameters", "best_accuracy"):
        choice = choose(equal, ChoiceConfig(rule=rule, within=0.0))
        assert (choice.pareto, choice.recommended) == ((2, 3), 2)


@pytest.mark.parametrize(
    ("rule", "recommended"),
    [
        ({"within": 0.005}, 1),  # of those with as few parameters the better one
        ({"within": 0.3}, 4),
        ({"rule": "best_accuracy"}, 2),  # of the best ones the smaller
        ({"rule": "best_accuracy", "max_parameters": 99}, 4),
    ],
)
def test_ties_go_to_the_other_objective(rule: dict[str, Any], recommended: int) -> None:
    found = [finished(1, 0.8, 100), finished(2, 0.804, 200), finished(3, 0.804, 300), finished(4, 0.6, 50),
             finished(5, 0.799, 100)]  # fmt: skip
    assert choose(found, ChoiceConfig(**rule)).recommended == recommended


def test_only_finished_trials_count_and_by_their_last_row() -> None:
    found = [
        trial(1, [row(1, 0.99, 10), row(4, 0.5, 400)]),
        trial(2, [row(2, 0.95, 20)], "stopped"),
        trial(3, [row(4, 0.95, 20)], "failed"),
        trial(4, [row(4, 0.95, 20)], "running"),
    ]
    assert choose(found, ChoiceConfig()).pareto == (1,)


def test_what_has_no_bwt_is_within_any_bound() -> None:
    choice = choose([finished(1, 0.5, 100, None), finished(2, 0.9, 100, -0.2)], ChoiceConfig(min_bwt=0.0))
    assert (choice.pareto, choice.recommended) == ((1,), 1)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            [finished(1, 0.9, 100, -0.2), finished(2, 0.8, 90, -0.11)],
            "none of 2 finished trials has a BWT of at least -10.0 points (choice.min_bwt); "
            "trial 2 is nearest with -11.0 points",
        ),
        ([], "no trial has finished"),
        ([trial(1, [row(2, 0.9)], "stopped"), trial(2, status="failed")], "no trial has finished"),
    ],
)
def test_no_candidate(found: list[SweepTrial], reason: str) -> None:
    choice = choose(found, ChoiceConfig(min_bwt=-0.1))
    assert (choice.pareto, choice.recommended) == ((), None) and choice.reason.startswith(reason)


@pytest.mark.parametrize(
    ("rule", "left_out"),
    [
        ({}, ""),
        ({"min_bwt": -0.08}, ""),  # on the bound counts
        ({"min_bwt": -0.05}, "trial 1 has an AA of 61.3 points and is left out: its BWT of -8.0 points is below "
         "choice.min_bwt -0.05 (-5.0 points)"),
        ({"rule": "best_accuracy", "max_parameters": 400}, "trial 1 has an AA of 61.3 points and is left out: its 800 "
         "parameters are above choice.max_parameters 400"),
        ({"rule": "best_accuracy", "max_parameters": 400, "min_bwt": -0.05}, "trial 1 has an AA of 61.3 points and is "
         "left out: its BWT of -8.0 points is below choice.min_bwt -0.05 (-5.0 points)"),
        ({"rule": "best_accuracy", "max_parameters": 300}, "trial 1 has an AA of 61.3 points and is left out: its 800 "
         "parameters are above choice.max_parameters 300"),
    ],
)  # fmt: skip
def test_the_reason_names_the_bound_that_leaves_a_better_trial_out(rule: dict[str, Any], left_out: str) -> None:
    """The table shows 61.3; a best of 58.4 needs a word on why."""
    found = [finished(1, 0.613, 800, -0.08), finished(2, 0.584, 400, -0.01), finished(3, 0.55, 300, -0.02)]
    assert choose(found, ChoiceConfig(**rule)).reason.partition("; ")[2] == left_out


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rule", [{"min_bwt": -0.05}, {"rule": "best_accuracy", "max_parameters": 400}])
def test_a_better_trial_is_never_left_out_without_a_word(seed: int, rule: dict[str, Any]) -> None:
    points = drawn(seed, 25)
    choice = choose(trials(points), ChoiceConfig(**rule))
    best = max(aa for _, aa, _, _ in points)
    if choice.recommended is not None and f"{best / 2:.1f}" not in choice.reason.partition(";")[0]:
        assert f"an AA of {best / 2:.1f} points and is left out: its " in choice.reason


def test_no_trial_is_small_enough() -> None:
    found = [finished(1, 0.9, 300), finished(2, 0.8, 200)]
    choice = choose(found, ChoiceConfig(rule="best_accuracy", max_parameters=100))
    assert choice.recommended is None and choice.reason.endswith("; trial 2 keeps fewest with 200")


@pytest.mark.parametrize("seed", range(5))
def test_dominance_is_a_strict_order(seed: int) -> None:
    rows = [trial.rows[0] for trial in trials(drawn(seed, 20))]
    for a in rows:
        assert not dominates(a, a)
        for b in rows:
            assert not (dominates(a, b) and dominates(b, a))
            assert all(dominates(a, c) for c in rows if dominates(a, b) and dominates(b, c))
