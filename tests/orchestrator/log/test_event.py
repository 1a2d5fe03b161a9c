"""An event is read from an entry and written back; what is wrong names entry and key."""

from typing import Any

import pytest

from cluster.errors import IntegrityError
from orchestrator.log.event import Event, decided, events, lease_of, parse, well_formed
from orchestrator.track.aside import Abort, Promote
from orchestrator.track.events import Open, Renew
from tests.support.entries import entry


def test_an_event_is_written_under_a_lease() -> None:
    assert Renew().body() == {} and Renew().under(3).body() == {"lease": 3}


@pytest.mark.parametrize(
    ("kind", "body", "key"),
    [
        (Promote, {"alias": "a", "version": "2", "expect": 0}, "version"),
        (Promote, {"alias": "a", "version": True, "expect": 0}, "version"),
        (Promote, {"alias": "a", "version": 2.0, "expect": 0}, "version"),
        (Promote, {"alias": 3, "version": 2, "expect": 0}, "alias"),
        (Abort, {}, "prefixes"),
        (Abort, {"prefixes": "x"}, "prefixes"),
        (Open, {"config": {}, "tasks": [{}]}, "tasks.0.name"),
    ],
)
def test_what_is_wrong_names_entry_and_key(kind: type[Event], body: dict[str, Any], key: str) -> None:
    with pytest.raises(IntegrityError, match=rf"^entry 7 \({kind.op}\): {key}: .*; do not use this log"):
        parse(entry(kind.op, body), kind)
    assert [*well_formed([entry(kind.op, body)], kind)] == []


def test_only_what_is_asked_for_is_read() -> None:
    log = [entry("commit", {}), entry("abort", {"prefixes": ["x"]}), entry("later", {})]
    assert [(each.op, abort.prefixes) for each, abort in events(log, Abort)] == [("abort", ("x",))]


def test_an_entry_is_parsed_once() -> None:
    one = entry("abort", {"prefixes": ["x"]})
    assert parse(one, Abort) is parse(one, Abort)


def test_a_lease_that_is_not_named_is_the_default() -> None:
    assert lease_of(entry("later", {}), 3) == 3
    assert lease_of(entry("later", {"lease": 5}), 3) == 5
    assert lease_of(entry("later", {"lease": None}), 3) is None


def test_decisions_are_read_from_any_entry_and_malformed_ones_left_out() -> None:
    good = {"rule": "r", "subject": "v1", "measured": 0.5, "bound": 1, "verdict": "go_on", "reason": ""}
    log = [entry("later", {"decisions": [good, {"rule": 3}]}, 4), entry("renew", {}, 5)]
    (found,) = decided(log)
    assert found.shown() == {"seq": 4, "time": "2026-01-01T00:00:00.000+00:00", **good}


@pytest.mark.parametrize(
    "body", [{"decisions": 5}, {"decisions": "ab"}, {"lease": "x", "decisions": {}}, {"lease": [1]}]
)
def test_what_any_entry_may_carry_is_no_fault_in_another_form(body: dict[str, Any]) -> None:
    """A newer version may have written it: the lease is nobody's, and decisions are left out."""
    assert decided([entry("later", body)]) == ()
    assert lease_of(entry("later", body), 7) == body.get("lease", 7)
