"""What a sweep's sinks are told of its trials. That sinks keep it: tests/orchestrator/sinks."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.sinks.base import Sinks
from orchestrator.sweeps.tracking import TrialTracking, figures
from tests.support.raising import Raising
from tests.support.sweeps import row, sweep_of

VALUES = {"adapter.threshold": 0.25, "adapter.orthogonality.side": "both", "adapter.max_parameters": None}
ROWS = [row(1, 0.5, 100, None), row(2, 0.625, 250, -0.125)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def tracking(path: Path) -> TrialTracking:
    return TrialTracking(
        sweep_of(run={"team": "blue", "store": str(path.parent)}, tracking={"jsonl": str(path)}), print
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_trial_is_a_run_beside_the_others_of_its_sweep(tracking: TrialTracking, path: Path) -> None:
    for each in ROWS:
        tracking.measured(3, VALUES, each)
    tracking.ended(3, "finished")
    begun, first, last, ended = lines(path)
    assert (begun["run"], begun["sweep"], begun["parameters"]) == ("blue/s-00003", "s", VALUES)
    assert (first["step"], first["values"]["aa/validation"], last["step"]) == (1, 0.5, 2)
    assert "bwt/validation" not in first["values"] and last["values"]["bwt/validation"] == -0.125
    assert ended["status"] == "finished" and ended["summary"] == last["values"]


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted"])
def test_trials_that_did_not_finish(tracking: TrialTracking, path: Path, status: Any) -> None:
    tracking.measured(1, VALUES, ROWS[0])
    tracking.ended(1, status)
    tracking.ended(1, "finished")  # it has ended
    tracking.ended(2, "failed")  # it has measured nothing, and was never begun
    assert [line.get("status") for line in lines(path)] == [None, None, status]


def test_what_is_left_when_the_sweep_leaves(tracking: TrialTracking, path: Path) -> None:
    tracking.measured(1, VALUES, ROWS[0])
    tracking.measured(2, VALUES, ROWS[0])
    tracking.ended(2, "stopped")
    tracking.close()
    ends = {line["run"]: line["status"] for line in lines(path) if line["event"] == "end"}
    assert ends == {"blue/s-00001": "interrupted", "blue/s-00002": "stopped"}


def test_a_sink_that_raises_is_left_out_for_all_trials() -> None:
    said: list[str] = []
    tracking, bad = TrialTracking(sweep_of(), said.append), Raising("log")
    tracking.sinks = Sinks({"mlflow": lambda: bad}, said.append)
    for number in (1, 2):
        for each in ROWS:
            tracking.measured(number, VALUES, each)
        tracking.ended(number, "finished")
    assert bad.told == ["start", "log"] and len(said) == 1


def test_figures() -> None:
    assert figures(ROWS[1]) == {
        "aa/validation": 0.625, "bwt/validation": -0.125, "forgetting/validation": 0.125, "parameters": 250,
        "train_s": 20.0, "evaluate_s": 4.0,
    }  # fmt: skip
