"""Every requirement lets pass what does not concern it, and refuses what does, however often it is asked."""

from dataclasses import FrozenInstanceError
from typing import Any, NamedTuple

import pytest

from cluster.errors import ConfigError, ConflictError
from orchestrator.log.entry import Entry
from orchestrator.log.event import Anything, Requirement, Unchanged
from orchestrator.track.driving import counted, driving
from orchestrator.track.requirements import (
    AliasAt,
    All,
    LeaseHeld,
    NoOtherDriver,
    NotCollected,
    RulesAt,
    SameVersions,
    Uncommitted,
)
from tests.support.entries import COMMIT, START


def entry(seq: int, op: str, **body: Any) -> Entry:
    return Entry(seq, "", "", "me@here", "2026-01-01T00:00:00+00:00", op, body, f"{seq} {op} {body}")


def commit(seq: int, version: int, **more: Any) -> Entry:
    return entry(seq, "commit", **{**COMMIT, "version": version, "prefix": f"p{version}", **more})


def move(seq: int, version: int, expect: int, alias: str = "production") -> Entry:
    return entry(seq, "promote", alias=alias, version=version, expect=expect)


READ = (entry(1, "start", **START), commit(2, 1, lease=1), commit(3, 2, lease=1), move(4, 1, 0))
INDEX = entry(5, "index", upto=4, index_sha256="")


class Case(NamedTuple):
    """What a requirement lets pass; and what it refuses, with words of its message."""

    requirement: Requirement
    passes: tuple[Entry, ...]
    refuses: tuple[Entry, ...]
    words: str


CASES = {
    "NoOtherDriver": Case(
        NoOtherDriver("team/x"), (INDEX, move(6, 2, 4)), (entry(7, "renew"),), "another driver is at work"
    ),
    "LeaseHeld": Case(
        LeaseHeld(label="team/x", noun="run", driver=driving(counted(READ)).driver, entries=READ),
        (INDEX, move(6, 2, 4)),
        (entry(7, "start", **START),),
        "has taken the run over",
    ),
    "LeaseHeld by nobody": Case(
        LeaseHeld(label="team/x", noun="sweep", driver=None, entries=()),
        (INDEX,),
        (entry(7, "start", **START),),
        "has taken the sweep over",
    ),
    "AliasAt": Case(
        AliasAt(label="team/x", alias="production", seq=4, version=2, entries=READ),
        (INDEX, move(6, 2, 0, "candidate"), commit(7, 3)),
        (move(8, 2, 4),),
        "entry 8 moved it last",
    ),
    "AliasAt none": Case(
        AliasAt(label="team/x", alias="new", seq=0, version=2, entries=READ),
        (INDEX,),
        (move(8, 1, 0, "new"),),
        "expected entry 0",
    ),
    "NotCollected": Case(
        NotCollected("team/x", "mine"),
        (entry(6, "abort", prefixes=["theirs"]), entry(7, "orphans", prefixes=["mine"])),
        (entry(8, "abort", prefixes=["mine"]),),
        "took mine for left over",
    ),
    "Uncommitted": Case(
        Uncommitted("team/x", frozenset({"p3"})), (commit(6, 4), INDEX), (commit(7, 3),), "was committed meanwhile"
    ),
    "SameVersions": Case(
        SameVersions(label="team/x", first=2, versions=frozenset({2}), entries=READ),
        (INDEX, entry(6, "renew", lease=1)),
        (commit(7, 3),),
        "was added or deleted meanwhile",
    ),
    "SameVersions named": Case(
        SameVersions(label="team/x", first=2, versions=frozenset({2}), entries=READ),
        (move(6, 1, 0, "other"),),
        (move(7, 2, 0, "candidate"),),
        "candidate names v2",
    ),
    "RulesAt": Case(
        RulesAt("team/.policy", 1, (entry(1, "rules", rules={}),)), (), (entry(2, "rules", rules={}),), "revision 2"
    ),
    "All": Case(
        All((NoOtherDriver("team/x"), Uncommitted("team/x", frozenset({"p3"})))), (INDEX,), (entry(7, "renew"),), "work"
    ),
    "Unchanged": Case(Unchanged(), (), (INDEX,), "wrote entry 5"),
}


@pytest.mark.parametrize("name", CASES)
def test_conformance(name: str) -> None:
    requirement, passes, refuses, words = CASES[name]
    for _ in range(2):  # it is asked before each attempt
        requirement.check([])
        requirement.check(passes)
        with pytest.raises(ConflictError, match=words) as caught:
            requirement.check([*passes, *refuses])
        assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("name", [name for name in CASES if name != "Unchanged"])
def test_they_are_values(name: str) -> None:
    requirement: Any = CASES[name].requirement
    with pytest.raises(FrozenInstanceError):
        requirement.label = "other"


def test_anything_passes() -> None:
    Anything().check([*READ, INDEX])


def test_an_alias_is_not_moved_to_what_was_deleted() -> None:
    held = AliasAt(label="team/x", alias="production", seq=4, version=2, entries=READ)
    with pytest.raises(ConfigError, match="team/x@v2: was deleted"):
        held.check([entry(6, "delete", versions=[2], prefixes=["p2"])])


def test_rules_that_were_never_made_are_at_zero() -> None:
    RulesAt("team/.policy", 0, ()).check([])
    with pytest.raises(ConflictError, match=r"at revision 0 \(by nobody\), not 3"):
        RulesAt("team/.policy", 3, ()).check([])


def test_what_gc_had_taken_before_counts() -> None:
    with pytest.raises(ConflictError, match="left over"):
        NotCollected("team/x", "mine", frozenset({"mine"})).check([])
