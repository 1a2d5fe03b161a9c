"""A sweep on a terminal: a line per trial, what is recommended, what to type next."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.console.sweep import print_sweep, shown, trials_table
from orchestrator.sweeps.events import Chosen
from orchestrator.sweeps.sweep_state import SweepState
from tests.support.entries import entry
from tests.support.sweeps import finished, line_of, row, state_of, sweep_of, trial

CHOICE = Chosen(
    pareto=(2, 1), recommended=1, reason="the best AA", importance={"AA": {"threshold": 0.75, "max_rank": 0.25}}
)


def show(state: SweepState, capsys: pytest.CaptureFixture[str], folder: Path = Path("a folder")) -> list[str]:
    print_sweep(sweep_of(run={"store": "/my store"}), state, folder)
    return capsys.readouterr().out.splitlines()


def test_nothing_ran_yet(capsys: pytest.CaptureFixture[str]) -> None:
    lines = show(state_of(status="interrupted", reason="by [bold] SIGINT"), capsys)
    assert lines == ["", "default/s: interrupted; trials: none ended", "  reason: by [bold] SIGINT"]


def test_trials_and_what_is_recommended(capsys: pytest.CaptureFixture[str]) -> None:
    trials = (finished(1, 0.9, 400), finished(2, 0.8, 100), trial(3, [row(1, 0.2)], "stopped"), trial(4, (), "failed"))
    lines = show(state_of(*trials, status="finished", choice=CHOICE), capsys)
    assert lines[1] == "default/s: finished; trials: 2 finished, 1 stopped, 1 failed"
    line_of(lines, "1 *", "4/4", "90.0", "400", "finished")
    line_of(lines, "2 *", "4/4", "80.0", "100", "finished")
    line_of(lines, " 3 ", "1/4", "20.0", "stopped")
    line_of(lines, " 4 ", "0/4", "·", "failed")
    assert "  trial 4 failed: the loss is nan" in lines
    assert "share of the variance of AA by key (fANOVA): threshold 75%, max_rank 25%" in lines
    assert "recommended: trial 1 (threshold 0.01)" in lines and "  the best AA" in lines
    line_of(lines, "orthoplex run 'a folder/", "--set name=s-00001")
    assert "  orthoplex explain default/s-00001 --store '/my store'" in lines


def test_a_trial_that_nobody_trains_any_more_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    lines = show(state_of(trial(1, (), "running"), status="interrupted"), capsys)
    line_of(lines, "  trial 1 stopped: the sweep ended before it")
    assert not any("recommended" in line for line in lines)
    assert not any("stopped" in line for line in show(state_of(trial(1, (), "running")), capsys))


def test_what_a_newer_version_wrote_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    lines = show(state_of(skipped=(entry("annotate", {}, 3),)), capsys)
    assert lines[2] == "note: entry 3 (annotate) was written by a newer Orthoplex; skipped"


def test_values_are_short_and_no_markup() -> None:
    assert (shown(0.123456), shown(16), shown("[red]x")) == ("0.1235", "16", "\\[red]x")
    table = trials_table(sweep_of(), state_of(finished(7, 0.5, 10, threshold=0.123456, max_rank=8)), front=())
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    line_of(captured.get().splitlines(), " 7 ", "0.1235", " 8 ", "4/4", "50.0")
