"""Aliases move only from where their mover saw them; the rules hold; what was in production when can be told."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError, GuardStop
from orchestrator.registry.aliases import promote, rollback
from orchestrator.registry.gating import judged
from orchestrator.track.moves import aliases, at, moves
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from tests.support.entries import Raw
from tests.support.registries import (
    ended,
    folder_track,
    forkable,
    in_child,
    publish_one,
    stream_of,
    track_with,
)


@pytest.fixture
def track(tmp_path: Path) -> Track:
    """Three versions."""
    return track_with(3, tmp_path)


def named(track: Track) -> dict[str, int]:
    return {name: alias.version for name, alias in aliases(track.entries()).items()}


def test_promote_and_roll_back(track: Track) -> None:
    assert named(track) == {}
    first = promote(track, 1, "production", why="first")
    assert (first.op, first.seq) == ("promote", 4)
    body = {"alias": "production", "version": 1, "expect": 0, "why": "first", "rules_revision": 0}
    assert first.body == body
    promote(track, 2, "production", expect=4)
    promote(track, 1, "candidate")
    assert named(track) == {"candidate": 1, "production": 2}
    promote(track, 3, "production", expect=5)
    assert rollback(track, "production").body["version"] == 2
    assert rollback(track, "production", why="worse").body["version"] == 1
    with pytest.raises(ConfigError, match="has nothing to go back to"):
        rollback(track, "production")
    with pytest.raises(ConfigError, match="has nothing to go back to"):
        rollback(track, "other")
    promote(track, 3, "production")
    assert rollback(track, "production").body["version"] == 1
    assert aliases(track.entries())["production"].seq == track.head().seq  # type: ignore[union-attr]


def test_the_revision_counts_not_the_version(track: Track) -> None:
    """ABA: there and back, and who saw the first A is refused."""
    seen = promote(track, 1, "production").seq
    promote(track, 2, "production")
    promote(track, 1, "production")
    assert named(track) == {"production": 1}
    with pytest.raises(ConflictError, match="expected entry 4 to have moved it last, but entry 6"):
        promote(track, 3, "production", expect=seen)
    with pytest.raises(ConflictError):
        rollback(track, "production", expect=seen)
    with pytest.raises(ConflictError):
        promote(track, 3, "candidate", expect=seen)
    promote(track, 3, "production", expect=6)
    assert named(track) == {"production": 3}


def test_aba_between_reading_and_writing(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another moves the alias there and back just before the entry is written."""
    track, other = track_with(3, tmp_path, uri), stream_of(uri)
    promote(track, 1, "production")
    put = track.store.put_if_absent

    def late(key: str, data: bytes) -> bool:
        promote(other, 2, "production")
        promote(other, 1, "production")
        track.store.put_if_absent = put  # type: ignore[method-assign]
        return put(key, data)

    monkeypatch.setattr(track.store, "put_if_absent", late)
    with pytest.raises(ConflictError, match="entry 6 moved it last"):
        promote(track, 3, "production")
    assert named(track) == {"production": 1}


def test_moves_of_another_alias_are_no_conflict(track: Track, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other, put = folder_track(Path(track.store.uri)), track.store.put_if_absent

    def late(key: str, data: bytes) -> bool:
        monkeypatch.undo()
        promote(other, 2, "candidate")
        publish_one(other, tmp_path)
        return put(key, data)

    monkeypatch.setattr(track.store, "put_if_absent", late)
    assert promote(track, 3, "production", expect=0).seq == 6
    assert named(track) == {"candidate": 2, "production": 3}


@pytest.mark.slow
def test_races_have_one_winner(uri: str, tmp_path: Path) -> None:
    """Eight processes move one alias, all from where it was last; now and then it has been there and back (ABA)."""
    track, store, won = track_with(3, tmp_path, uri), forkable(uri), tmp_path / "won"
    won.touch()

    def work(expect: int) -> None:
        try:
            promote(stream_of(store), 1 + os.getpid() % 3, "production", expect=expect)
        except ConflictError:
            return
        with won.open("a") as told:
            told.write(f"{os.getpid()}\n")

    seen, moved = 0, 0
    for round_ in range(5):
        if round_ == 3:
            here = named(track)["production"]
            for version in (here % 3 + 1, here):
                promote(track, version, "production")
            children = [in_child(lambda seq=seen: work(seq)) for _ in range(8)]  # type: ignore[misc]
            assert [ended(child) for child in children] == [0] * 8
            assert len(won.read_text().split()) == round_ and named(track)["production"] == here
            moved = 2
        last = aliases(track.entries()).get("production")
        seen = last.seq if last else 0
        children = [in_child(lambda seq=seen: work(seq)) for _ in range(8)]  # type: ignore[misc]
        assert [ended(child) for child in children] == [0] * 8
        assert len(won.read_text().split()) == round_ + 1
    assert len(moves(track.entries())) == 5 + moved


def test_entries_that_do_not_count(track: Track) -> None:
    """As a writer leaves them who does not keep to the rules."""
    promote(track, 1, "production")
    for op, body in [
        ("promote", {"alias": "production", "version": 2, "expect": 0, "why": ""}),
        ("rollback", {"alias": "production", "version": 2, "expect": 4, "why": ""}),
        ("rollback", {"alias": "new", "version": 1, "expect": 0, "why": ""}),
    ]:
        track.append(Raw(op, body), after=track.head())
    assert named(track) == {"production": 1} and len(moves(track.entries())) == 1


@pytest.mark.parametrize("alias", ["", "v1", "v01", "A", "a/b", "..", "a b", "ä", "x" * 101])
def test_names_that_are_refused(track: Track, alias: str) -> None:
    with pytest.raises(ConfigError, match="not an alias"):
        promote(track, 1, alias)


def test_versions_that_are_refused(track: Track) -> None:
    with pytest.raises(ConfigError, match="no such version; team/stream has v1, v2, v3"):
        promote(track, 4, "production")


def test_what_was_in_production_when(track: Track) -> None:
    promote(track, 1, "production")
    promote(track, 2, "production")
    rollback(track, "production")
    entries = track.entries()
    times = {4: "2026-01-01T12:00:00.000+00:00", 5: "2026-01-02T12:00:00+00:00", 6: "2026-01-03T12:00:00+00:00"}
    dated = [replace(entry, time=times.get(entry.seq, entry.time)) for entry in entries]
    expected = {
        "2026-01-01T11:59:59": None, "2026-01-01T12:00": 1, "2026-01-02": 1, "2026-01-02T13:00+02:00": 1,
        "2026-01-02T14:00+02:00": 2, "2026-01-03T12:00:00Z": 1, "2099-01-01": 1,
    }  # fmt: skip
    found = {moment: at(dated, "production", moment) for moment in expected}
    assert {moment: alias and alias.version for moment, alias in found.items()} == expected
    assert at(dated, "candidate", "2099-01-01") is None
    with pytest.raises(ConfigError, match="no time"):
        at(dated, "production", "yesterday")


# --- a team's bounds


@pytest.fixture
def run(fake_run: Callable[..., Any]) -> Any:
    """Two tasks; validation: AA 0.9, then (0.7 + 0.5) / 2 = 0.6 with 0.9 − 0.7 = 0.2 forgotten; 100 parameters each."""
    made = fake_run("a", "b")
    made.commit([0.9, 0.1], test=[0.0, 0.0])
    made.commit([0.7, 0.5], test=[1.0, 1.0])
    return made


@pytest.mark.parametrize(
    ("rule", "version", "said"),
    [
        ({}, 2, ""),
        ({"min_average_accuracy": 0.6, "max_forgetting": 0.2, "max_active_parameters": 200}, 2, ""),
        ({"min_average_accuracy": 0.61}, 2, "AA of 60.00 points is below min_average_accuracy 0.61 (61.00 points)"),
        ({"min_average_accuracy": 0.9}, 1, ""),
        ({"max_forgetting": 0.19}, 2, "forgetting of 20.00 points is above max_forgetting 0.19 (19.00 points)"),
        ({"max_forgetting": 0.0}, 1, ""),
        ({"max_active_parameters": 199}, 2, "200 parameters are above max_active_parameters 199"),
        ({"max_active_parameters": 100}, 1, ""),
    ],
)
def test_bounds_on_the_validation_matrix(run: Any, rule: dict[str, Any], version: int, said: str) -> None:
    decisions = judged(PromotionRule(**rule), run.state, version)
    assert [each.reason for each in decisions if each.verdict == "stop"] == ([said] if said else [])


def test_rules_are_kept(run: Any) -> None:
    log = RulesLog(run.track.store, "default")
    rules = TeamRules(promotion={"production": PromotionRule(min_average_accuracy=0.8, max_forgetting=0.1)})
    log.change(rules, expect=0, why="no worse")
    with pytest.raises(GuardStop, match=r"not become production, by revision 1 .*:\n  AA of 60.00 points.*\n  forg"):
        promote(run.track, 2, "production")
    promote(run.track, 2, "candidate")
    promoted = promote(run.track, 1, "production")
    assert promoted.body["rules_revision"] == 1
    decided = [(each["rule"], each["measured"], each["bound"], each["verdict"]) for each in promoted.body["decisions"]]
    assert decided == [("min_average_accuracy", 0.9, 0.8, "go_on")]  # nothing can be forgotten yet
    assert [each.decision.rule for each in run.state.decisions] == ["min_average_accuracy"]


# --- the run goes on


def test_a_run_goes_on_past_what_others_write(run: Any, tmp_path: Path) -> None:
    """Its driver appends on the state it read; promotions in between are no other driver, a commit is one."""
    state = run.state
    promote(run.track, 1, "production")
    promote(run.track, 2, "production")
    run.track.append(Raw("orphans", {"prefixes": []}), after=run.track.head())
    finish = run.track.append(Raw("finish", {}), after=state.head)
    assert finish.seq == state.head.seq + 4 and run.state.status == "finished"
    assert run.state.commits == state.commits and run.state.head == finish
    with pytest.raises(ConflictError, match=r"wrote entry .* \(finish\) first"):
        run.track.append(Raw("commit", {"prefix": "x"}), after=state.head)
    assert replay("default", "stream", run.track.entries()) == run.state
