"""`orthoplex sweep`: what it shows, what it refuses, and with which exit code it ends."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import Interrupted
from orchestrator.sweeps.config import SweepConfig, parse_sweep
from orchestrator.sweeps.driver import Sweep
from orchestrator.sweeps.results import PICTURE, RECOMMENDED, TRIALS
from tests.support.begun_sweeps import TRIALS_DONE, begun, ops, silent
from tests.support.command_line import Orthoplex
from tests.support.sweeps import content_of, finished, row, trial


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def sweep(orthoplex: Orthoplex, monkeypatch: pytest.MonkeyPatch, store: str) -> Orthoplex:
    """Runs `orthoplex sweep s.yaml …` in an empty folder."""
    monkeypatch.setenv("COLUMNS", "120")
    content = content_of(run={"store": store}, budget={"trials": 4})
    Path("s.yaml").write_text(yaml.safe_dump(content))
    return lambda *words: orthoplex("sweep", "s.yaml", *words)


def as_written() -> SweepConfig:
    return parse_sweep(yaml.safe_load(Path("s.yaml").read_text()), "")


def test_show_without_a_sweep(sweep: Any) -> None:
    code, out, err = sweep("--show")
    assert code == 2 and out == "" and "no sweep default/s" in err and "without --show" in err


def test_show_before_there_is_a_choice(sweep: Any) -> None:
    config = as_written()
    begun(config, [trial(1, [row(1, 0.5)], "stopped"), trial(2, (), "running")], "interrupt", "interrupted by SIGINT")
    before = ops(config)
    code, out, _ = sweep("--show", "--json")
    found = json.loads(out)
    assert code == 0 and (found["state"], found["recommended"], found["picture"]) == ("interrupted", None, None)
    assert [each["status"] for each in found["trials"]] == ["stopped", "stopped"]
    code, out, _ = sweep("--show")
    assert code == 0 and "default/s: interrupted" in out and "interrupted by SIGINT" in out
    assert ops(config) == before


def test_show(sweep: Any, untrained: list[Any]) -> None:
    config = as_written()
    begun(config, TRIALS_DONE, "interrupt")
    Sweep(config, silent).run()
    before = ops(config)
    code, out, _ = sweep("--show")
    assert code == 0 and ops(config) == before
    folder = Path(".orthoplex/sweeps/default/s")
    assert {path.name for path in folder.iterdir()} == {RECOMMENDED, PICTURE, TRIALS}
    for part in ("2 finished, 1 stopped, 1 failed", "1 *", "2 *", "90.0", "80.0", "1/4", "trial 4 failed: the loss is",
                 "recommended: trial 1", f"orthoplex run {folder}/{RECOMMENDED}", "--set name=s-00001"):  # fmt: skip
        assert part in out, part
    code, out, _ = sweep("--show", "--json", "--output", "elsewhere")
    found = json.loads(out)
    assert code == 0 and (found["pareto"], found["recommended"]) == ([2, 1], 1)
    assert found["recommended_config"] == f"elsewhere/{RECOMMENDED}" and Path(found["picture"]).exists()


def test_a_finished_sweep_is_shown_and_not_trained(sweep: Any, untrained: list[Any]) -> None:
    begun(as_written(), TRIALS_DONE, "interrupt")
    Sweep(as_written(), silent).run()
    before = ops(as_written())
    code, out, _ = sweep()
    assert code == 0 and "recommended: trial 1" in out and ops(as_written()) == before


def test_what_libraries_print_is_not_in_the_json(sweep: Any, untrained: list[Any]) -> None:
    begun(as_written(), TRIALS_DONE, "interrupt")
    untrained[0].act = staticmethod(lambda _: print("ds_accelerator"))
    code, out, err = sweep("--json")
    assert code == 0 and json.loads(out)["recommended"] == 1 and err.endswith("ds_accelerator\n")


def test_nothing_to_recommend(sweep: Any, untrained: list[Any]) -> None:
    begun(as_written(), [finished(1, 0.9, 400, -0.5)], "interrupt")
    code, out, err = sweep("--set", "choice.min_bwt=-0.1")
    assert code == 3 and "default/s: finished" in out
    assert (
        "no trial can be recommended: none of 1 finished trials has a BWT of at least -10.0 points (choice.min_bwt)"
        in err
    )


def test_an_interrupt_leaves_a_result_and_says_how_to_go_on(sweep: Any, untrained: list[Any]) -> None:
    begun(as_written(), TRIALS_DONE, "interrupt")

    def train(_: Any) -> None:
        raise Interrupted("told to leave")

    untrained[0].act = staticmethod(train)
    code, out, err = sweep("--set", "budget.trials=9")
    assert code == 130 and "recommended: trial 1" in out
    assert "orthoplex sweep s.yaml --set budget.trials=9" in err


def test_a_changed_file_is_refused(sweep: Any, untrained: list[Any]) -> None:
    begun(as_written(), TRIALS_DONE, "interrupt")
    content = copy.deepcopy(yaml.safe_load(Path("s.yaml").read_text()))
    content["run"]["train"] = {"epochs": 1}
    Path("s.yaml").write_text(yaml.safe_dump(content))
    code, out, err = sweep()
    assert code == 2 and out == "" and "run.train.epochs: was 3, is now 1" in err
