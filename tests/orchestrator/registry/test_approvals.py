"""Words of people on versions: who, why, on which bytes; what they allow; they disturb no driver."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError, GuardStop, IntegrityError
from orchestrator.console.followed.review import bounds_of
from orchestrator.followed.review import Period, moved_in
from orchestrator.registry.aliases import promote, rollback, writer
from orchestrator.registry.approvals import judge_word, say, word_on
from orchestrator.registry.gc import Collector
from orchestrator.registry.verify import verify
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from tests.support.entries import Raw
from tests.support.keys import sign_with
from tests.support.registries import track_with

EVER = Period(since=datetime.min.replace(tzinfo=UTC), until=datetime.max.replace(tzinfo=UTC))


@pytest.fixture
def track(tmp_path: Path) -> Track:
    """Two versions."""
    return track_with(2, tmp_path)


def state_of(track: Track, version: int) -> str | None:
    entries = track.entries()
    word = word_on(entries, replay("team", "stream", entries).version(version))
    return word.state if word else None


def needing(track: Track, **rule: Any) -> None:
    rules = TeamRules(promotion={"production": PromotionRule(**{"approval": True, **rule})})
    RulesLog(track.store, track.team).change(rules, expect=0, why="four eyes")


def test_the_last_word_counts(track: Track) -> None:
    assert state_of(track, 1) is None
    say(track, 1, "pending")
    said = say(track, 1, "rejected", why="it swears")
    say(track, 1, "approved", why="fixed the prompt")
    assert (state_of(track, 1), state_of(track, 2)) == ("approved", None)
    body = {"version": 1, "state": "rejected", "why": "it swears", "manifest_sha256": said.body["manifest_sha256"]}
    assert said.body == body and verify(track).faults == []


def test_a_word_needs_a_version_and_a_reason(track: Track) -> None:
    for state in ("approved", "rejected"):
        with pytest.raises(ConfigError, match=rf"team/stream@v1: say why it is {state}, with --why"):
            say(track, 1, state, " ")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="v9: no such version"):
        say(track, 9, "pending")
    Collector(track, timedelta(0)).delete(2, "old")
    with pytest.raises(ConfigError, match="was deleted"):
        say(track, 2, "approved", "late")


def test_a_version_that_is_rejected_meanwhile_is_not_promoted(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    needing(track)
    say(track, 2, "approved", "good")
    put = track.store.put_if_absent

    def first(key: str, data: bytes) -> bool:
        monkeypatch.undo()
        say(Track(track.store, "team", "stream"), 2, "rejected", "it swears")
        return put(key, data)

    monkeypatch.setattr(track.store, "put_if_absent", first)
    with pytest.raises(ConflictError, match=r"team/stream@v2: .* wrote entry 4 \(rejected\) of it first"):
        promote(track, 2, "production")
    assert [entry.op for entry in track.entries()][2:] == ["approval", "approval"]


def test_a_reason_that_nobody_could_read_again_is_refused(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.log.chain.MOST_ENTRY_BYTES", 20_000)
    with pytest.raises(ConfigError, match="is more than readers take; say less"):
        say(track, 2, "approved", "x" * 20_000)
    assert state_of(track, 2) is None


def test_a_version_that_is_deleted_meanwhile_gets_none(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    put = track.store.put_if_absent

    def first(key: str, data: bytes) -> bool:
        monkeypatch.undo()
        Collector(Track(track.store, "team", "stream"), timedelta(0)).delete(2, "meanwhile")
        return put(key, data)

    monkeypatch.setattr(track.store, "put_if_absent", first)
    with pytest.raises(ConfigError, match="was deleted"):
        say(track, 2, "approved", "good")
    assert [entry.op for entry in track.entries()][2:] == ["delete"]


def test_what_needs_approval_is_not_promoted_without(track: Track) -> None:
    needing(track)
    for state, why in ((None, ""), ("pending", "please"), ("rejected", "no")):
        if state:
            say(track, 1, state, why)  # type: ignore[arg-type]
        with pytest.raises(GuardStop, match=r"v1 is (not approved|pending|rejected)"):
            promote(track, 1, "production")
    promote(track, 2, "candidate")  # no rule
    say(track, 1, "approved", "looked at 50 answers")
    made = promote(track, 1, "production")
    assert [(each["rule"], each["verdict"]) for each in made.body["decisions"]] == [("approval", "go_on")]


def test_what_is_rejected_becomes_nothing_without_a_rule(track: Track) -> None:
    say(track, 1, "rejected", "it swears")
    with pytest.raises(GuardStop, match=r"v1 is rejected by .*: it swears"):
        promote(track, 1, "candidate")
    assert judge_word(None, 1, needed=False) == []


def test_an_alias_does_not_go_back_to_what_is_rejected(track: Track) -> None:
    promote(track, 1, "production"), promote(track, 2, "production")
    say(track, 1, "rejected", "it swears")
    with pytest.raises(
        GuardStop, match=r"production may not go back to v1:\n  v1 is rejected by .*: it swears\n.*--over"
    ):
        rollback(track, "production", why="v2 is worse")
    with pytest.raises(ConfigError, match="--override: say why, with --why"):
        rollback(track, "production", override=True)
    made = rollback(track, "production", why="v2 is worse", override=True)
    assert made.body["version"] == 1 and made.body["overridden"] == ["approval"]
    assert [each["verdict"] for each in made.body["decisions"]] == ["stop", "override"]
    (told,) = [each for each in moved_in("team/stream", track.entries(), EVER) if each.kind == "rollback"]
    assert "set aside: v1 is rejected by" in bounds_of(told)


def test_a_rollback_of_an_older_orthoplex_does_not_hide_a_rejection(track: Track) -> None:
    promote(track, 1, "production"), promote(track, 2, "production")
    say(track, 1, "rejected", "it swears")
    track.append(Raw("rollback", {"alias": "production", "version": 1, "expect": 4, "why": ""}), after=track.head())
    told = [*moved_in("team/stream", track.entries(), EVER)][-1]
    assert told.kind == "rollback" and "v1 is rejected by" in bounds_of(told)


def test_a_named_person_sets_rules_aside_with_a_reason(track: Track) -> None:
    needing(track, min_average_accuracy=0.5)
    with pytest.raises(ConfigError, match="--override: say why, with --why"):
        promote(track, 1, "production", override=True)
    made = promote(track, 1, "production", why="the fair is tomorrow", override=True)
    assert made.body["overridden"] == ["min_average_accuracy", "approval"]
    last = made.body["decisions"][-1]
    assert (last["rule"], last["verdict"], last["reason"]) == ("override", "override", "the fair is tomorrow")
    assert last["measured"] == made.actor.rpartition("@")[0]
    say(track, 2, "approved", "fine")
    assert "overridden" not in promote(track, 2, "candidate", why="w", override=True).body  # nothing was broken


def test_only_those_whom_the_rules_name_may_override(track: Track) -> None:
    needing(track, overriders=("alice",))
    with pytest.raises(ConfigError, match=r"may not, by promotion.production.overriders of the team's rules: alice"):
        promote(track, 1, "production", why="now", override=True)
    mine = writer(RulesLog(track.store, "team").trust)
    rules = TeamRules(promotion={"production": PromotionRule(approval=True, overriders=(mine,))})
    RulesLog(track.store, "team").change(rules, expect=1, why="")
    assert promote(track, 1, "production", why="now", override=True).body["overridden"] == ["approval"]


def test_words_are_signed_by_promoters(signed: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lead` may do all, `bob` publish."""
    made = say(signed, 1, "approved", "fine")
    assert made.signature and writer(signed.trust) == "lead"
    sign_with(tmp_path / "bob", monkeypatch)
    assert writer(signed.trust) == "bob"
    with pytest.raises((ConfigError, IntegrityError), match="bob, who is not a promoter"):
        say(signed, 1, "rejected", "I do not like it")
