"""Costs per task and in all, operations beside those of the base's training, and thinned curves."""

from typing import Any

import pytest

from orchestrator.console.curves import Curves
from orchestrator.report.blocks import Grid, Picture, Words
from orchestrator.report.effort import MOST_STEPS, by_task, costs, effort_sections, ends, learning, operations, thinned
from orchestrator.report.source import Source
from orchestrator.track.spending import spent
from tests.orchestrator.conftest import config_of

FILES = {"manifest_sha256": "0" * 64, "stored_bytes": 1000, "active_parameters": 10}


def priced(fake_run: Any, tokens: tuple[int | None, int | None] = (100, 300), **cost: Any) -> Any:
    given = {"use_gpu": True}
    run = fake_run("a", "b", config=config_of("ab", cluster=given, cost={"gpu_hour": 2.0, **cost}))
    for index, count in enumerate(tokens):
        counted = {} if count is None else {"tokens": count, "base_parameters": 1000, "trained_parameters": 10}
        taken = {"train_s": 3600.0, "evaluate_s": 0.0, "workers": 1, **counted}
        body = {
            "version": index + 1,
            "index": index,
            "task": "ab"[index],
            "prefix": f"p{index}",
            "cost": taken,
            **FILES,
        }
        run.append("commit", body)
    return run.state


def test_a_row_per_task(fake_run: Any) -> None:
    grid = by_task(priced(fake_run))
    # 4 · 1000 + 6 · 10 operations per token: 406,000 and 1,218,000
    assert grid.heads[6] == "money, USD"
    assert grid.rows == [
        ["a", "10", "1,000", "3,600", "0", "1.00", "2.00", "100", "4.06e+05", "4.06e+05"],
        ["b", "10", "1,000", "3,600", "0", "1.00", "2.00", "300", "1.22e+06", "1.62e+06"],
    ]


def test_a_gap_stays_a_gap(fake_run: Any) -> None:
    state = priced(fake_run, (100, None))
    assert [row[-3:] for row in by_task(state).rows] == [["100", "4.06e+05", "4.06e+05"], ["·", "·", "·"]]
    assert "not known: commits of older" in next(iter(operations(spent(state))))


@pytest.mark.parametrize(("base", "said"), [(1e9, "0.00487 times a third"), (1e6, "4.87 times a third")])
def test_beside_a_third_of_the_base(fake_run: Any, base: float, said: str) -> None:
    _, told = operations(spent(priced(fake_run, base_flops=base)))
    assert said in told and ("so above the mark" in told) is (base == 1e6) and "18 July 2025" in told


def test_without_the_base_s_training(fake_run: Any) -> None:
    assert "cost.base_flops" in [*operations(spent(priced(fake_run)))][1]


def test_all_of_it(three: Source) -> None:
    curves, cost = effort_sections(three)
    assert [type(block) for block in curves.blocks] == [Picture]
    assert [type(block) for block in cost.blocks] == [Grid, Picture, Grid, Words]
    (picture,) = learning(three.curves)
    assert isinstance(picture, Picture) and picture.table and picture.table.rows[0][0] == "a"


def test_nothing_yet(fake_run: Any) -> None:
    assert [*costs(fake_run("a").state)] == [] and [*learning([])] == []


def test_long_curves_are_thinned_to_their_last_step() -> None:
    steps = [*range(1, 1001)]
    made = thinned(Curves(task="a\nb", ref="r", steps=steps, figures={"loss": [float(each) for each in steps]}))
    assert len(made.steps) <= MOST_STEPS and made.steps[-1] == 1000 and made.task == "a b"
    assert made.figures["loss"] == [float(each) for each in made.steps]
    assert ends([None, 1.0, 0.25]) == "1 → 0.25" and ends([]) == "·"
