"""A team's rules: their revisions, who may change them, and what is refused."""

import time
from pathlib import Path

import pytest

from cluster.errors import ConfigError, ConflictError, IntegrityError
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules, parse_rules
from orchestrator.track.track import Track
from tests.support.keys import sign_with
from tests.support.registries import folder_track, fresh


def test_rules_are_changed_by_admins_alone(signed: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RulesLog(signed.store, "team")
    revision, rules = log.current()
    assert (revision, rules.unsigned["stream"].seq) == (1, 1)
    changed = rules.model_copy(update={"promotion": {"production": PromotionRule(max_forgetting=0.5)}})
    with pytest.raises(ConflictError, match="at revision 1"):
        log.change(changed, expect=0, why="")
    log.change(changed, expect=1, why="")
    assert log.current() == (2, changed)
    sign_with(tmp_path / "bob", monkeypatch)
    with pytest.raises(ConfigError, match=r"is not a admin"):
        log.change(TeamRules(), expect=2, why="I may do all")
    assert fresh(signed).entries() and log.current() == (2, changed)
    monkeypatch.setattr(RulesLog, "_refuse_unbelieved", lambda *_: None)
    log.change(TeamRules(), expect=2, why="I may do all")
    with pytest.raises(IntegrityError):
        fresh(signed).entries()


def test_rules_that_others_change_hold_after_a_minute(signed: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    current = RulesLog.current
    monkeypatch.setattr(RulesLog, "current", lambda log: (reads.append(log.label), current(log))[1])
    assert fresh(signed).entries() and fresh(signed).entries() and reads == ["team/.policy"]
    elsewhere = folder_track(Path(signed.store.uri.removeprefix("file://"))).store
    log = RulesLog(elsewhere, "team")
    log.change(log.current()[1].model_copy(update={"unsigned": {}}), expect=1, why="nothing unsigned counts")
    assert fresh(signed).entries()
    now = time.monotonic()
    monkeypatch.setattr("orchestrator.track.rules.time.monotonic", lambda: now + 61)
    with pytest.raises(IntegrityError, match="is not signed"):
        fresh(signed).entries()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"promotion": {"production": {"min_accuracy": 0.5}}}, "min_accuracy: unknown key"),
        ({"promotion": {"production": {"max_forgetting": 2}}}, "max_forgetting"),
        ({"signatures": "required"}, "needs a key with the role admin"),
        ({"keys": {"me": {"public_key": "secret"}}}, "not a PEM public key"),
        ({"keys": {"me": {"public_key": "x", "roles": ["king"]}}}, "roles.0: Input should be 'publisher'"),
        (3, "rules"),
    ],
)
def test_rules_that_are_refused(content: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rules(content, "rules.yaml")


def test_rules_get_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry of their log is a revision."""
    monkeypatch.setattr("orchestrator.log.chain.INDEX_EVERY", 10)
    rules = RulesLog(folder_track(tmp_path / "store").store, "team")
    for number in range(12):
        given = TeamRules(promotion={"production": PromotionRule(max_active_parameters=number + 1)})
        rules.change(given, expect=number, why="")
        assert rules.current() == (number + 1, given)
