"""What `publish` commits can be read, promoted and built upon; nobody guesses what it does not say."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import GuardStop
from cluster.storage import LocalStore
from orchestrator.registry.aliases import promote
from orchestrator.registry.publish import publish
from orchestrator.run.driver_log import RunLog
from orchestrator.run.fork import plan_fork, take_over
from orchestrator.sweeps.trial import fork_of
from orchestrator.track.events import Learned
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules
from orchestrator.track.scores import Score
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from orchestrator.track.view import status_view
from tests.orchestrator.conftest import config_of
from tests.support.command_line import Orthoplex, here
from tests.support.registries import make_files, publish_one, track_with


@pytest.fixture
def track(tmp_path: Path) -> Track:
    """Two versions that say nothing but the name of their task."""
    made = Track(LocalStore(tmp_path / "store"), "team", "imported")
    for name in ("first", "second"):
        publish(made, make_files(tmp_path, name), Learned(task=name), {})
    return made


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Orthoplex:
    """Runs the command in this process, on the store."""

    return lambda *argv: here(monkeypatch, capsys, *argv, "--store", tmp_path / "store")


def test_status_knows_what_was_not_measured(track: Track, call: Orthoplex) -> None:
    code, out, err = call("status", "imported", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert (shown["state"], shown["driver"], shown["time_left_s"]) == ("published", None, None)
    assert [(task["name"], task["state"], task["ref"]) for task in shown["tasks"]] == [
        ("first", "done", "team/imported@v1"),
        ("second", "done", "team/imported@v2"),
    ]
    unknown = ("labels", "rows", "active_parameters", "overlap", "occupancy", "budget", "cost")
    assert all(task[key] is None for task in shown["tasks"] for key in unknown)
    assert shown["matrix"] == shown["validation_matrix"] == [[None, None], [None, None]]
    measured = {**shown["metrics"], **shown["validation_metrics"]}
    assert measured.pop("stored_bytes") == 320 and set(measured.values()) == {None}
    assert call("status", "imported")[0] == 0 and "published, 2 of 2 tasks" in call("status", "imported")[1]


def test_every_reader_reads_it(track: Track, call: Orthoplex) -> None:
    assert "team/imported@v2  second  not scored  ? parameters" in call("adapters", "list")[1]
    assert "parameters: ?; overlap with earlier tasks: not measured" in call("adapters", "show", "imported@v1")[1]
    assert "base not known" in call("adapters", "show", "imported@v1", "--tree")[1]
    assert "no version says how its budget was chosen" in call("explain", "imported")[1]
    explained = json.loads(call("explain", "imported", "--json")[1])
    assert [(each["task"], each["budget"], each["training"]) for each in explained] == [
        (name, {}, {}) for name in ("first", "second")
    ]
    assert {(each["decided"]["recorded"], *each["decided"]["modules"]) for each in explained} == {(False,)}
    for words in (("list",), ("show", "imported@v1"), ("show", "imported@v1", "--tree"), ("verify",)):
        assert call("adapters", *words, "--json")[0] == 0
    code, _, err = call("adapters", "serve-layout", "imported@v1")
    assert code == 2 and "its log holds no configuration" in err


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"min_average_accuracy": 0.1}, "AA was not measured"),
        ({"max_forgetting": 0.9}, "forgetting was not measured"),
        ({"max_active_parameters": 9}, "active parameters were not measured"),
    ],
)
def test_rules_that_ask_for_what_was_not_measured_refuse(track: Track, rule: dict[str, Any], said: str) -> None:
    rules = TeamRules(promotion={"production": PromotionRule(**rule)})
    RulesLog(track.store, "team").change(rules, expect=0, why="")
    with pytest.raises(GuardStop, match=f"may not become production.*\n  {said}, but {next(iter(rule))} asks for"):
        promote(track, 2, "production")
    promote(track, 2, "candidate")


def test_what_was_measured_is_judged(tmp_path: Path) -> None:
    track = Track(LocalStore(tmp_path / "store"), "team", "scored")
    scores = (Score(correct=9, rows=10),)
    publish(track, make_files(tmp_path, 1), Learned(task="a", validation=scores, active_parameters=5), {})
    rules = TeamRules(promotion={"production": PromotionRule(min_average_accuracy=0.9, max_active_parameters=5)})
    RulesLog(track.store, "team").change(rules, expect=0, why="")
    promote(track, 1, "production")
    state = replay("team", "scored", track.entries())
    assert state.metrics("validation")["aa"] == 0.9 and status_view(state)["validation_metrics"]["aa_micro"] is None


def test_a_run_and_a_sweep_go_on_from_it(track: Track) -> None:
    """Rows that the log does not describe are not compared; digests of a base that it does not name neither."""
    config = config_of(["first", "second", "third"], team="team", name="next", store=track.store.uri)
    assert fork_of("team/imported@v1", config).tasks == 1 and fork_of("imported@v2", config).tasks == 2
    log = RunLog(Track(track.store, "team", "next"))
    log.take({}, 120, lambda _: None)
    take_over(log, plan_fork(track, None))
    assert [(commit.task, commit.forked_from) for commit in log.state.commits] == [
        ("first", "team/imported@v1"),
        ("second", "team/imported@v2"),
    ]
    assert log.state.status == "running" and log.state.base_digest is None


def test_one_that_says_more_shows_it(tmp_path: Path) -> None:
    state = replay("team", "stream", track_with(2, tmp_path).entries())
    assert (state.active_parameters, state.base_digest) == (20, "b" * 64)
    publish(track_with(0, tmp_path), make_files(tmp_path, 9), Learned(task="b"), {})
    mixed = replay("team", "stream", track_with(0, tmp_path).entries())
    assert (
        mixed.active_parameters is None and mixed.upto(2).active_parameters == 20
    )  # two count, the third is not known


def test_publish_still_numbers(track: Track, tmp_path: Path) -> None:
    assert publish_one(track, tmp_path).body["version"] == 3
