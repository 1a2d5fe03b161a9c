"""Aliases are replayed from moves; a move counts only from where its writer saw the alias."""

from typing import Any

import pytest

from cluster.errors import ConfigError, IntegrityError
from orchestrator.log.entry import Entry
from orchestrator.track.moves import aliases, at, by_version, moves


def move(seq: int, op: str, **body: Any) -> Entry:
    return Entry(seq, "", "", "me@here", f"2026-01-0{seq}T12:00:00+00:00", op, body, f"{seq} {op} {body}")


LOG = [
    move(1, "promote", alias="production", version=1, expect=0, why="first"),
    move(2, "promote", alias="production", version=2, expect=1),
    move(3, "promote", alias="production", version=3, expect=1),  # its writer had not seen entry 2
    move(4, "promote", alias="candidate", version=2, expect=0),
    move(5, "rollback", alias="production", version=1, expect=2),
    move(6, "rollback", alias="production", version=1, expect=5),  # nothing is left to go back to
]


def test_moves_that_count() -> None:
    assert [(each.seq, each.name, each.version, each.trail) for each in moves(LOG)] == [
        (1, "production", 1, (1,)),
        (2, "production", 2, (1, 2)),
        (4, "candidate", 2, (2,)),
        (5, "production", 1, (1,)),
    ]
    first = moves(LOG)[0]
    assert (first.actor, first.why, moves(LOG)[1].why) == ("me@here", "first", "")


def test_a_malformed_move_is_no_move_that_does_not_count() -> None:
    malformed = move(7, "promote", alias="candidate", version="3", expect=4)
    with pytest.raises(IntegrityError, match=r"entry 7 \(promote\): version: input should be a valid integer"):
        moves([*LOG, malformed])


def test_where_they_point() -> None:
    assert {name: alias.version for name, alias in aliases(LOG).items()} == {"candidate": 2, "production": 1}
    assert [*aliases(LOG)] == ["candidate", "production"] and aliases([]) == {}
    both = [*LOG, move(8, "promote", alias="production", version=2, expect=5)]
    assert {version: [each.name for each in named] for version, named in by_version(both).items()} == {
        2: ["candidate", "production"]
    }


@pytest.mark.parametrize(
    ("moment", "version"),
    [("2026-01-01", None), ("2026-01-02T13:00+02:00", 1), ("2026-01-02T12:00:00Z", 2), ("2027-01-01", 1)],
)
def test_where_they_pointed(moment: str, version: int | None) -> None:
    found = at(LOG, "production", moment)
    assert (found and found.version) == version


def test_what_is_no_time() -> None:
    with pytest.raises(ConfigError, match="--at 'noon': no time"):
        at(LOG, "production", "noon")
