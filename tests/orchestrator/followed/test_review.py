"""A period's page says what stands in the logs, and nothing of other periods."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.followed.recording import record
from orchestrator.followed.review import Period, Review, period, review
from orchestrator.registry.aliases import promote, rollback
from orchestrator.registry.approvals import say
from orchestrator.registry.references import resolve
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules
from tests.orchestrator.followed.conftest import evaluated
from tests.support.entries import COMMIT

EVER = Period(since=datetime(2000, 1, 1, tzinfo=UTC), until=datetime(3000, 1, 1, tzinfo=UTC))


@pytest.fixture
def run(fake_run: Callable[..., Any]) -> Any:
    """A run of two tasks, of which the second start changed guards and tasks, promoted, rolled back, scored."""
    made = fake_run("a", "b")
    made.commit([0.9, 0.2], [0.8, 0.25], zero_shot=[0.5, 0.05])
    made.append(
        "stop", {"reason": "guards.max_forgetting", "decisions": [decision("go_on", 0.1), decision("stop", 0.3)]}
    )
    made.config = made.config.model_copy(
        update={"guards": made.config.guards.model_copy(update={"max_forgetting": 0.4}), "tasks": made.config.tasks[:1]}
    )
    made.open(["a", "b"])
    made.commit([0.7, 0.6], [0.7, 0.6])
    store, team = made.track.store, made.track.team
    rules = TeamRules(promotion={"production": PromotionRule(min_average_accuracy=0.5)})
    RulesLog(store, team).change(rules, expect=0, why="a floor")
    RulesLog(store, team).change(
        TeamRules(promotion={"production": PromotionRule(min_average_accuracy=0.6)}), expect=1, why="higher"
    )
    promote(made.track, 1, "production", why="first"), promote(made.track, 2, "production", why="better")
    rollback(made.track, "production", why="no")
    version = resolve(store, f"{made.track.label}@v2")
    for values in ([1] * 45 + [0] * 5, [1] * 30 + [0] * 20):
        record(version, evaluated(values), asked="", files={}, settings={}, seconds=1)
    return made


def decision(verdict: str, measured: float) -> dict[str, Any]:
    return {
        "rule": "guards.max_forgetting", "subject": "v1", "measured": measured, "bound": 0.2, "verdict": verdict,
        "reason": f"forgetting is {measured}",
    }  # fmt: skip


def page(run: Any, when: Period = EVER) -> Review:
    return review([run.track], when, scope="all")


def test_what_was_learned_and_what_it_cost(run: Any) -> None:
    made = page(run)
    assert [(each.ref, each.task, each.average_accuracy) for each in made.learned] == [
        ("default/stream@v1", "a", pytest.approx(0.8)), ("default/stream@v2", "b", pytest.approx(0.65)),
    ]  # fmt: skip
    assert all("@" in each.actor for each in made.learned)
    (cost,) = made.cost
    assert (cost.tasks, cost.train_s, cost.evaluate_s, cost.gpu_hours, cost.money) == (2, 3.0, 1.0, 0.0, None)


def test_who_moved_what_and_why(run: Any) -> None:
    made = page(run).moved
    assert [(each.kind, each.before, each.version, each.why) for each in made] == [
        ("promote", None, 1, "first"), ("promote", 1, 2, "better"), ("rollback", 2, 1, "no"),
    ]  # fmt: skip
    assert "AA of 90.00 points is within min_average_accuracy 0.6" in made[0].held[0] and made[2].held == []


def test_which_thresholds_were_met_broken_and_moved(run: Any) -> None:
    made = page(run)
    found = {each.rule: each for each in made.thresholds}
    guard, floor = found["guards.max_forgetting"], found["min_average_accuracy"]
    assert (guard.judged, guard.broken, guard.measured, guard.bound) == (2, 1, 0.3, 0.2)
    assert (floor.judged, floor.broken, floor.bound) == (2, 0, 0.6)
    told = {(each.where, each.key): (each.before, each.after, each.why) for each in made.changed}
    assert told["default/stream", "guards.max_forgetting"] == (None, 0.4, "")
    assert told["default/stream", "tasks"] == (["a", "b"], ["a"], "")
    key = "promotion.production.min_average_accuracy"
    assert told["default/.policy", key] == (0.5, 0.6, "higher")
    assert [each.status for each in made.ended] == ["stopped"] and made.ended[0].reason == "guards.max_forgetting"


def test_which_scores_drifted(run: Any) -> None:
    (scored,) = page(run).scored
    assert (scored.records, scored.worse, scored.better, scored.score, scored.verdict) == (2, 1, 0, 0.6, "worse")


def test_other_periods_are_left_out(run: Any) -> None:
    long_ago = Period(since=datetime(2000, 1, 1, tzinfo=UTC), until=datetime(2001, 1, 1, tzinfo=UTC))
    made = page(run, long_ago)
    parts = made.learned, made.moved, made.said, made.changed, made.thresholds, made.ended, made.scored, made.cost
    assert made.tracks == 1 and not any(parts)


def test_a_day_ends_at_its_end() -> None:
    found = period("2026-11-01", "2026-11-30")
    assert found.holds("2026-11-30T23:59:59.999+00:00") and not found.holds("2026-12-01T00:00:00.000+00:00")
    assert found.holds("2026-11-01T00:00:00.000+00:00") and not found.holds("2026-10-31T23:59:59.999+00:00")
    assert not period("2026-11-01", "2026-11-30T12:00").holds("2026-11-30T12:00:00.000+00:00")
    assert period("20261101", "20261130") == period("2026-11-01", "2026-W49-1") == found
    assert period(None, "2026-11-30T01:00+02:00").until.isoformat() == "2026-11-29T23:00:00+00:00"
    assert period(None, "0001-01-01").until.day == 2
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert period(None, None, now) == Period(since=now - timedelta(days=30), until=now)


@pytest.mark.parametrize(
    ("since", "until", "message"),
    [("soon", None, "--from 'soon': no day"), ("2026-02-30", None, "no day or time"), (None, "9999-12-31", "--to"),
     (None, "0001-01-01T00:00", "is not before"),
     ("2026-02-02", "2026-02-01", "is not before")],
)  # fmt: skip
def test_what_is_no_period(since: str | None, until: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        period(since, until)


def test_what_was_said_of_versions_and_what_a_guard_held_back(fake_run: Callable[..., Any]) -> None:
    made = fake_run("a", "b")
    made.commit([0.9, 0.2], zero_shot=[0.5, 0.05])
    say(made.track, 1, "pending"), say(made.track, 1, "rejected", why="too slow")
    body = {**COMMIT, "version": 2, "task": "b", "prefix": f"{made.track.version_root}/x", "identity": "i",
            "decisions": [decision("stop", 0.3), decision("go_on", 0.1)]}  # fmt: skip
    made.append("quarantine", body)
    found = page(made)
    assert [(each.ref, each.said, each.why) for each in found.said] == [
        ("default/stream@v1", "pending", ""), ("default/stream@v1", "rejected", "too slow"),
        ("default/stream@v2", "quarantined", "forgetting is 0.3"),
    ]  # fmt: skip
    assert len(found.learned) == 1


def test_rules_that_were_set_aside_are_named(run: Any) -> None:
    store, team = run.track.store, run.track.team
    RulesLog(store, team).change(
        TeamRules(promotion={"production": PromotionRule(min_average_accuracy=0.99)}), expect=2, why="strict"
    )
    promote(run.track, 2, "production", why="it must go out", override=True)
    last = page(run).moved[-1]
    assert [each for each in last.set_aside if "min_average_accuracy 0.99" in each]
    assert not any("0.99" in each for each in last.held)
