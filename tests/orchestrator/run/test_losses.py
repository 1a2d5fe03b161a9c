"""Streams with tasks that are judged by their loss: everything that reads scores reads nll, or leaves it out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.errors import ConfigError, GuardStop
from cluster.storage import open_store
from orchestrator.cli.main import app
from orchestrator.config.run import GuardConfig, RunConfig, parse_config
from orchestrator.gates.noise import too_few_rows
from orchestrator.registry.aliases import promote
from orchestrator.registry.catalog import rows_of
from orchestrator.run.controller import Controller
from orchestrator.run.tracking import accuracies, summary
from orchestrator.sweeps.trial import row
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from orchestrator.track.view import status_view
from tests.support.fake_workers import FakeWorkers, Told, without_ray

RISING = {0: [4.0, 2.0, 2.25, 2.5], 1: [4.0, 3.5, 3.0, 3.25], 2: [5.0, 4.5, 4.0, 1.5]}
MIXED = {0: RISING[0], 2: RISING[2]}


def config_of(store: Path, by_loss: Sequence[bool] = (True, True, True), **guards: Any) -> RunConfig:
    """Tasks a, b, c of plain text, and of prompts with answers if they are not judged by their loss."""
    tasks = [
        {"name": name, "source": "files", "train": "a.jsonl", "test": "b.jsonl",
         "format": "text" if loss else "prompt_completion"}
        for name, loss in zip("abc", by_loss, strict=True)
    ]  # fmt: skip
    content = {"name": "stream", "store": str(store), "tasks": tasks, "adapter": {"target_modules": ["o_proj"]}}
    model = {"name": "docs-lm", "task_type": "CAUSAL_LM"}
    return parse_config({**content, "model": model, "guards": guards}, "test")


def run(config: RunConfig, nll: Mapping[int, Sequence[float]], **fake: Any) -> RunState:
    return Controller(config, Told(), workers=FakeWorkers(config, nll=nll, **fake)).run()


def test_tasks_of_losses_have_no_rows_that_a_guard_reads(tmp_path: Path) -> None:
    guards = GuardConfig(max_forgetting=0.01, confidence=0.95)
    config = config_of(tmp_path, (True, False, True)).model_copy(update={"guards": guards})
    assert too_few_rows(config, [10, 2000, 10]) == [] and len(too_few_rows(config, [10, 20, 10])) == 1


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture
def only_loss(tmp_path: Path) -> RunState:
    return run(config_of(tmp_path), RISING)


@pytest.fixture
def mixed(tmp_path: Path) -> RunState:
    return run(config_of(tmp_path / "mixed", (True, False, True)), MIXED, accuracy={1: 0.6})


def test_they_stay_out_of_accuracy_and_have_a_matrix_of_their_own(only_loss: RunState) -> None:
    none = dict.fromkeys(("aa", "aa_micro", "bwt", "forgetting", "fwt", "learning_accuracy"))
    assert only_loss.metrics("test") == none and only_loss.matrix("test") == [[None] * 3] * 3
    assert only_loss.losses("test") == [[2.0, 3.5, 4.5], [2.25, 3.0, 4.0], [2.5, 3.25, 1.5]]
    assert only_loss.zero_shot_losses == [4.0, 4.0, 5.0] and only_loss.zero_shot == [None] * 3
    found = {"nll": pytest.approx((2.5 + 3.25 + 1.5) / 3), "nll_increase": pytest.approx((0.5 + 0.25) / 2)}
    assert only_loss.loss_metrics("test") == found
    halves = only_loss.half_widths("test")  # each score has ±0.25
    assert halves["nll"] == pytest.approx(math.sqrt(3) * 0.25 / 3)
    assert halves["nll_increase"] == pytest.approx(math.sqrt(4) * 0.25 / 2) and halves["aa"] is None


def test_a_mixed_stream_has_both(mixed: RunState) -> None:
    assert mixed.metrics("test")["aa"] == pytest.approx(0.6) and mixed.metrics("test")["bwt"] == 0
    assert mixed.matrix("test")[2] == [None, 0.6, None] and mixed.losses("test")[2] == [2.5, None, 1.5]
    assert mixed.loss_metrics("validation") == {"nll": 2.0, "nll_increase": 0.5}


def test_status_as_json(only_loss: RunState, mixed: RunState) -> None:
    for state in (only_loss, mixed):
        shown: Any = json.loads(json.dumps(status_view(state), allow_nan=False))
        assert shown["losses"]["matrix"] == state.losses("test")
        assert shown["losses"]["metrics"]["nll_increase"] == state.loss_metrics("test")["nll_increase"]
        assert shown["intervals"][2][0] == [2.25, 2.75] and shown["half_widths"]["nll"] is not None


def test_screens(only_loss: RunState, tmp_path: Path) -> None:
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--store", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.output

    shown = said("status", "stream")
    assert "Loss on the test splits, nll in nats per token" in shown and "Accuracy" not in shown and "AA" not in shown
    assert "2.500 ±0.250" in shown and "nll increase of earlier tasks      0.375 ±0.250 nats" in shown
    assert "default/stream@v3  c  nll 2.417  " in said("adapters", "list")
    assert "test accuracy of the tasks up to it: nll 2.417 ±0.144" in said("adapters", "show", "stream@v3")
    assert "default/stream" in said("explain", "stream")


def test_rows_of_listings(only_loss: RunState, tmp_path: Path) -> None:
    track = Track(open_store(str(tmp_path)), "default", "stream")
    found = rows_of("default/stream", track.entries())
    assert [(each["average_accuracy"], each["average_nll"]) for each in found] == [
        (None, 2.0), (None, (2.25 + 3.0) / 2), (None, (2.5 + 3.25 + 1.5) / 3)
    ]  # fmt: skip


def test_sinks(only_loss: RunState) -> None:
    told = summary(only_loss)
    assert told["aa/test"] is None and told["nll_increase/validation"] == pytest.approx(0.375)
    assert accuracies(only_loss)["a"] == {"nll/validation": 2.5, "nll/test": 2.5}


def test_a_guard_on_the_nll_of_earlier_tasks(tmp_path: Path) -> None:
    state = run(config_of(tmp_path / "on", max_nll_increase=0.375), RISING)
    assert [each.decision.measured for each in state.decisions] == [0.25, 0.375]  # none after the first task
    with pytest.raises(GuardStop, match=r"an nll 0\.2500 nats per token higher is above guards\.max_nll_increase 0\.2"):
        run(config_of(tmp_path / "off", max_nll_increase=0.2), RISING)


def test_a_guard_on_accuracy_waits_for_a_task_that_has_one(tmp_path: Path) -> None:
    config = config_of(tmp_path, (True, False, True), min_average_accuracy=0.5, max_forgetting=0.1)
    state = run(config, MIXED, accuracy={1: 0.6})
    assert [(each.decision.rule, each.decision.measured) for each in state.decisions] == [
        ("guards.min_average_accuracy", 0.6), ("guards.min_average_accuracy", 0.6), ("guards.max_forgetting", 0.0)
    ]  # fmt: skip
    with pytest.raises(GuardStop, match="AA of 40"):
        run(config.model_copy(update={"name": "low"}), MIXED, accuracy={1: 0.4})


def test_guards_without_a_task_that_they_could_read_are_refused(tmp_path: Path) -> None:
    for key in ("min_average_accuracy", "max_forgetting"):
        with pytest.raises(ConfigError, match=rf"guards\.{key} 0\.5: all tasks are judged by their loss"):
            config_of(tmp_path, **{key: 0.5})
    with pytest.raises(ConfigError, match=r"guards\.max_nll_increase 0\.5: no task is judged by its loss"):
        config_of(tmp_path, (False, False, False), max_nll_increase=0.5)


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"max_nll_increase": 0.4}, ""),
        ({"max_nll_increase": 0.3}, "an nll 0.3750 nats per token higher is above max_nll_increase 0.3"),
        ({"min_average_accuracy": 0.1}, "AA was not measured, but min_average_accuracy asks for it"),
        ({"max_forgetting": 0.9}, "forgetting was not measured, but max_forgetting asks for it"),
    ],
)
def test_promotion(only_loss: RunState, tmp_path: Path, bound: dict[str, float], said: str) -> None:
    """A bound on accuracy refuses a stream that has none."""
    track = Track(open_store(str(tmp_path)), "default", "stream")
    rules = TeamRules(promotion={"production": PromotionRule.model_validate(bound)})
    RulesLog(track.store, "default").change(rules, expect=0, why="")
    if not said:
        promote(track, 3, "production")
        return
    with pytest.raises(GuardStop, match=said.replace(".", r"\.")):
        promote(track, 3, "production")


def test_a_sweep_reads_the_probability_of_a_token(only_loss: RunState, mixed: RunState) -> None:
    found = row(only_loss, 3)
    assert found.aa == pytest.approx((math.exp(-2.5) + math.exp(-3.25) + math.exp(-1.5)) / 3)
    assert found.bwt == pytest.approx((math.exp(-2.5) - math.exp(-2) + math.exp(-3.25) - math.exp(-3)) / 2)
    assert row(only_loss, 1).aa == pytest.approx(math.exp(-2))
    assert row(mixed, 3).aa == pytest.approx(0.6) and row(mixed, 1).aa == pytest.approx(math.exp(-2))
    better = replace(only_loss, commits=run(config_of(Path(only_loss.config["store"]) / "b"), {
        task: [value - 0.5 for value in values] for task, values in RISING.items()
    }).commits)  # fmt: skip
    assert row(better, 3).aa > found.aa
