"""Every figure below is worked out by hand in the comment beside it."""

import pytest

from orchestrator.track import metrics

NONE = dict.fromkeys(("aa", "aa_micro", "bwt", "forgetting", "fwt", "learning_accuracy"))
FALLING = [
    [0.9, 0.2, 0.1],
    [0.7, 0.8, 0.3],
    [0.6, 0.5, 0.7],
]
DETOUR = [  # task 0 is best after task 1, so forgetting is not −BWT
    [0.5, 0.0, 0.0],
    [0.9, 0.6, 0.0],
    [0.7, 0.6, 0.8],
]
HOLES = [
    [0.9, 0.2, 0.1],
    [None, 0.8, 0.3],
    [0.6, None, 0.7],
]


def test_three_tasks() -> None:
    assert metrics.summary(FALLING, [0.1, 0.1, 0.2], [100, 200, 700]) == pytest.approx(
        {
            "aa": 0.6,  # (0.6 + 0.5 + 0.7) / 3
            "aa_micro": 0.65,  # (100 · 0.6 + 200 · 0.5 + 700 · 0.7) / 1000 = (60 + 100 + 490) / 1000
            "bwt": -0.3,  # ((0.6 − 0.9) + (0.5 − 0.8)) / 2
            "forgetting": 0.3,  # ((max(0.9, 0.7) − 0.6) + (0.8 − 0.5)) / 2
            "fwt": 0.1,  # ((0.2 − 0.1) + (0.3 − 0.2)) / 2
            "learning_accuracy": 0.8,  # (0.9 + 0.8 + 0.7) / 3
        }
    )


def test_forgetting_looks_at_the_best_and_bwt_at_the_first() -> None:
    assert metrics.backward_transfer(DETOUR) == pytest.approx(0.1)  # ((0.7 − 0.5) + (0.6 − 0.6)) / 2
    assert metrics.forgetting(DETOUR) == pytest.approx(0.1)  # ((max(0.5, 0.9) − 0.7) + (0.6 − 0.6)) / 2


def test_later_tasks_may_help_earlier_ones() -> None:
    better = [[0.5, 0.1], [0.8, 0.6]]
    assert metrics.backward_transfer(better) == pytest.approx(0.3)  # 0.8 − 0.5
    assert metrics.forgetting(better) == pytest.approx(-0.3)  # 0.5 − 0.8: not clipped at 0


def test_one_task() -> None:
    assert metrics.summary([[0.4]], [0.1], [50]) == {**NONE, "aa": 0.4, "aa_micro": 0.4, "learning_accuracy": 0.4}


def test_no_task() -> None:
    assert metrics.summary([], [], []) == NONE
    assert metrics.summary([], [None, None], [5, 5]) == NONE


def test_columns_of_tasks_not_yet_trained_do_not_count() -> None:
    begun = [[0.9, 0.2, 0.0, 0.0], [0.7, 0.8, 0.0, 0.0]]
    assert metrics.summary(begun, [0.1, 0.1, 0.1, 0.1], [10, 30, 1000, 1000]) == pytest.approx(
        {
            "aa": 0.75,  # (0.7 + 0.8) / 2
            "aa_micro": 0.775,  # (10 · 0.7 + 30 · 0.8) / 40 = 31 / 40
            "bwt": -0.2,  # 0.7 − 0.9
            "forgetting": 0.2,  # 0.9 − 0.7
            "fwt": 0.1,  # 0.2 − 0.1
            "learning_accuracy": 0.85,  # (0.9 + 0.8) / 2
        }
    )


def test_entries_that_were_not_evaluated_are_left_out() -> None:
    assert metrics.summary(HOLES, [0.1, 0.1, 0.2], [100, 200, 300]) == pytest.approx(
        {
            "aa": 0.65,  # (0.6 + 0.7) / 2
            "aa_micro": 0.675,  # (100 · 0.6 + 300 · 0.7) / 400 = 270 / 400
            "bwt": -0.3,  # 0.6 − 0.9; task 1 has no last value
            "forgetting": 0.3,  # 0.9 − 0.6
            "fwt": 0.1,  # ((0.2 − 0.1) + (0.3 − 0.2)) / 2
            "learning_accuracy": 0.8,  # (0.9 + 0.8 + 0.7) / 3
        }
    )


def test_nothing_is_left_to_average() -> None:
    diagonal = [[0.9, None], [None, 0.5]]
    assert metrics.summary(diagonal, [0.1, 0.1], [10, 30]) == pytest.approx(
        {**NONE, "aa": 0.5, "aa_micro": 0.5, "learning_accuracy": 0.7}  # (0.9 + 0.5) / 2
    )
    assert metrics.forward_transfer([[0.9, 0.3], [0.8, 0.5]], [None, None]) is None
    assert metrics.summary([[None]], [None], [10]) == NONE


def test_scores_of_other_rows_are_compared_with_nothing() -> None:
    """Task 0 had 20 rows after its training and 30 last, task 1 had 30 both times, task 2 was untrained on 20."""
    matrix = [[0.9, 0.3, 0.2], [0.9, 0.8, 0.3], [0.1, 0.6, 0.7]]
    counts = [[20, 20, 20], [20, 30, 20], [30, 30, 30]]
    alike = metrics.of_the_same_rows(matrix, counts, [20, 30, 20])
    assert alike == [[None, None, 0.2], [None, 0.8, 0.3], [0.1, 0.6, 0.7]]
    assert metrics.summary(matrix, [0.1, 0.1, 0.2], [30, 30, 30], alike) == pytest.approx(
        {
            "aa": 1.4 / 3,
            "aa_micro": 1.4 / 3,
            "bwt": -0.2,  # 0.6 − 0.8; task 0 has no score of 30 rows to compare
            "forgetting": 0.2,
            "fwt": 0.1,  # 0.3 − 0.2
            "learning_accuracy": 0.8,
        }
    )
    assert metrics.loss_summary(matrix, alike) == pytest.approx({"nll": 1.4 / 3, "nll_increase": -0.2})


def test_one_function_a_name() -> None:
    assert metrics.average_accuracy(FALLING) == pytest.approx(0.6)
    assert metrics.micro_average_accuracy(FALLING, [1, 1, 2]) == pytest.approx(0.625)  # (0.6 + 0.5 + 1.4) / 4
    assert metrics.learning_accuracy(FALLING) == pytest.approx(0.8)
    assert metrics.forward_transfer(FALLING, [0.9, 0.3, 0.2]) == pytest.approx(0.0)  # ((0.2−0.3) + (0.3−0.2)) / 2
