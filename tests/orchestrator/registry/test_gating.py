"""A verdict on a version: by a rules file, a team's rule for an alias, or the run's own guards."""

from typing import Any

import pytest

from cluster.errors import ConfigError, GuardStop
from orchestrator.registry.aliases import promote
from orchestrator.registry.gating import gate, judged
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules
from tests.orchestrator.conftest import config_of

RULES = PromotionRule(min_average_accuracy=0.65, max_forgetting=0.2)


@pytest.fixture
def run(fake_run: Any) -> Any:
    """v1 has AA 0.9; v2 has AA 0.6, forgets 0.2 and breaks the run's guard, as a log of an older Orthoplex may have
    it."""
    made = fake_run("a", "b", config=config_of("ab", guards={"min_average_accuracy": 0.7}))
    made.commit([0.9, 0.0])
    made.commit([0.7, 0.5])
    return made


def test_by_rules(run: Any) -> None:
    verdict = gate(run.track.store, "stream", RULES, origin="rules.yaml")
    assert (verdict.ref, verdict.task, verdict.origin, verdict.quarantined) == (
        "default/stream@v2", "b", "rules.yaml", False,
    )  # fmt: skip
    assert verdict.broken == ["AA of 60.00 points is below min_average_accuracy 0.65 (65.00 points)"]
    shown = verdict.shown()
    assert (shown["passed"], shown["unresolved"], len(verdict.decisions)) == (False, [], 2)
    assert gate(run.track.store, "stream@v1", RULES).broken == []


def test_by_the_own_guards_and_a_team(run: Any) -> None:
    assert [each.rule for each in gate(run.track.store, "stream").decisions] == ["guards.min_average_accuracy"]
    rules = TeamRules(promotion={"production": RULES})
    RulesLog(run.track.store, "default").change(rules, expect=0, why="")
    verdict = gate(run.track.store, "stream", alias="production")
    assert verdict.origin == "promotion.production of revision 1 of the team's rules" and len(verdict.broken) == 2
    assert [each.rule for each in verdict.decisions] == [
        "min_average_accuracy", "max_forgetting", "guards.min_average_accuracy"
    ]  # fmt: skip


def test_promotion_refuses_what_breaks_the_runs_own_guards(run: Any) -> None:
    with pytest.raises(GuardStop, match=r"below guards.min_average_accuracy 0.7 .*\n.*--override"):
        promote(run.track, 2, "production")
    assert "decisions" not in promote(run.track, 1, "production").body  # what a guard let pass is in the log already
    made = promote(run.track, 2, "production", why="asked for", override=True).body
    assert [each["rule"] for each in made["decisions"]] == ["guards.min_average_accuracy", "override"]
    wider = config_of("ab", guards={"min_average_accuracy": 0.5}).model_dump(mode="json")
    run.append("open", {"config": wider, "tasks": [each.body() for each in run.state.tasks]})
    assert "overridden" not in promote(run.track, 2, "candidate").body


def test_what_is_quarantined_is_judged(run: Any) -> None:
    """Of a run; a version that is named is judged as it was."""
    v2 = run.state.commits[-1]
    body = {**v2.body(), "version": 3, "index": 2, "task": "c", "prefix": "x", "identity": "i" * 64}
    run.append("open", {"config": config_of("abc").model_dump(mode="json"),
                        "tasks": [{"name": name} for name in "abc"]})  # fmt: skip
    worse = [{"correct": 1, "rows": 10}] * 3
    run.append("quarantine", {**body, "validation": worse})
    verdict = gate(run.track.store, "default/stream", RULES)
    assert (verdict.ref, verdict.task, verdict.quarantined, len(verdict.broken)) == ("default/stream@v3", "c", True, 2)
    assert not gate(run.track.store, "stream@v2", RULES).quarantined
    with pytest.raises(ConfigError, match="stream@v3': no such version; default/stream has v1, v2"):
        gate(run.track.store, "stream@v3", RULES)


def test_what_is_refused(run: Any, fake_run: Any) -> None:
    fake_run("a", name="fresh")
    with pytest.raises(ConfigError, match=r"default/fresh has learned nothing yet"):
        gate(run.track.store, "fresh", RULES)
    with pytest.raises(ConfigError, match=r"nothing is bounded by promotion.x of revision 0 .*; name bounds with"):
        fake_run("a", name="free").commit([0.5])
        gate(run.track.store, "free", alias="x")
    assert judged(PromotionRule(), run.state, 2) == []
