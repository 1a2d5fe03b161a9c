"""Which keys were changed between two starts, and between two revisions of rules."""

from pathlib import Path
from typing import Any

from cluster.storage import LocalStore
from orchestrator.followed.changed import config_changes, rule_changes, value_shown
from orchestrator.track.rules import RulesLog, TeamRules
from tests.support.entries import entry


def opened(seq: int, **config: Any) -> Any:
    return entry("open", {"config": config, "tasks": []}, seq)


def test_the_first_start_changes_nothing_and_tasks_are_told_by_name() -> None:
    one = opened(1, train={"epochs": 3, "seed": 0}, tasks=[{"name": "a", "source": "files"}])
    two = opened(2, train={"epochs": 5, "seed": 0}, tasks=[{"name": "a"}, {"name": "b"}], cost={"gpu_hour": 2.5})
    found = [*config_changes("t/r", [one, two, two])]
    assert [(each.key, each.before, each.after) for each in found] == [
        ("cost", None, {"gpu_hour": 2.5}), ("tasks", ["a"], ["a", "b"]), ("train.epochs", 3, 5),
    ]  # fmt: skip
    assert {(each.where, each.actor, each.time) for each in found} == {("t/r", two.actor, two.time)}


def test_a_revision_that_takes_a_bound_away_is_told(tmp_path: Path) -> None:
    log = RulesLog(LocalStore(tmp_path), "team")
    log.change(TeamRules.model_validate({"promotion": {"live": {"max_forgetting": 0.1}}}), expect=0, why="first")
    log.change(TeamRules(), expect=1, why="too strict")
    first, last = ([each for each in rule_changes(log) if each.why == why] for why in ("first", "too strict"))
    assert [(each.key, each.before) for each in first] == [("promotion.live", None)]
    assert [(each.key, each.after) for each in last] == [("promotion.live", None)]
    assert {each.where for each in [*first, *last]} == {"team/.policy"}


def test_long_values_are_cut() -> None:
    assert (
        value_shown({"a": 1}) == '{"a": 1}' and value_shown("x" * 100) == "x" * 80 + "…" and value_shown(None) == "null"
    )
