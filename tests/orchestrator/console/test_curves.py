"""Curves of characters and pictures, and the learning rate that training had."""

import math
from typing import Any

import pytest

from orchestrator.console.curves import RATE, Curves, bars, curves_of, lines, picture, rates
from trainers.config import TrainConfig, learning_rate_factor


def curves(**figures: list[float | None]) -> Curves:
    return Curves(task="a", ref="t/r@v1", steps=[1, 2], figures=figures)


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0.0, 7.0], "▁█"), ([7.0, 3.0, 0.0], "█▄▁"),
        ([1.0, None, math.nan, 0.0], "█  ▁"), ([*map(float, range(8))], "▁▂▃▄▅▆▇█"),
    ],
)  # fmt: skip
def test_bars(values: list[float | None], drawn: str) -> None:
    assert bars(values) == drawn


def test_many_values_share_a_character() -> None:
    assert bars([0.0, 0.0, 1.0, 3.0, 4.0, 4.0], width=3) == "▁▅█"  # means 0, 2 and 4: level round(7 / 2) of 7
    assert len(bars([1.0, 2.0] * 100)) == 48


def test_lines() -> None:
    found = [*lines(curves(loss=[1.5, 0.25], functional=[0.0, 0.002], overlap=[0.0, 0.0], own=[None, 3.0]))]
    assert found == [
        f"{'loss':<22}{'1.5 → 0.25':<24}█▁", f"{'functional penalty':<22}{'0 → 0.002':<24}▁█",
        f"{'own':<22}{'3 → 3':<24} ▁",
    ]  # fmt: skip


def test_of_a_commit(fake_run: Any) -> None:
    run = fake_run("a")
    run.commit([0.5])
    log: dict[str, Any] = {
        "step": [10, 20], "mean_rank": [4.0, 3.0], "loss": [0.5, 0.25], "rank/x": [4, 3], "zeal": [1.0, 2.0],
    }  # fmt: skip
    made = curves_of(run.state, run.state.commits[0], log)
    assert made is not None and [*made.figures] == ["loss", "mean_rank", "zeal", RATE] and made.steps == [10, 20]
    # 20 warm-up steps, at most half of all: the rate of step 10 is the last of the warm-up's, that of step 20 a tenth
    assert made.figures[RATE] == pytest.approx([1e-3 * 10 / 11, 1e-3 / 10])
    assert curves_of(run.state, run.state.commits[0], {}) is None


def test_rates_are_those_of_training() -> None:
    train = TrainConfig(learning_rate=0.5, warmup_steps=3)
    assert rates(train, [*range(1, 9)]) == [0.5 * learning_rate_factor(step, 3, 8) for step in range(8)]


@pytest.mark.filterwarnings("error")
def test_pictures_differ_by_what_they_show() -> None:
    one, other = curves(loss=[1.0, 0.5]), curves(loss=[1.0, 0.75], own=[None, 2.0])
    shown = [picture("t/r", each) for each in ([one], [other], [one, other], [one, one])]
    assert len({*shown}) == 4 and all(each.startswith(b"\x89PNG") for each in shown)
    assert picture("t/r", [one]) == shown[0]
