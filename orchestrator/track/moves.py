"""Where aliases point: a pure function of a track's log.

Each move is a `promote` or `rollback` entry. `expect` is the seq of the entry that moved the alias last (0: none), as
its writer saw it; an entry counts only if that is still so. Comparing versions instead would let two win if an alias
was moved there and back in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.errors import ConfigError
from orchestrator.log.entry import Entry
from orchestrator.log.event import events
from orchestrator.track.aside import MOVES, Promote


@dataclass(frozen=True, kw_only=True)
class Alias:
    """An alias and the version that it points to. `seq` is the entry that moved it last; `actor`, `time` and `why` are
    of that entry. `trail` holds the versions that rollbacks go back to, the current one last."""

    name: str
    seq: int
    trail: tuple[int, ...]
    actor: str
    time: str
    why: str

    @property
    def version(self) -> int:
        """The version it names."""
        return self.trail[-1]


def moves(entries: Sequence[Entry]) -> list[Alias]:
    """Every move that counts, in order, as the alias stood after it. Raises IntegrityError if one is malformed."""
    made = list[Alias]()
    now: dict[str, Alias] = {}
    for entry, move in events(entries, *MOVES):
        before = now.get(move.alias)
        if move.expect != (before.seq if before else 0):
            continue
        trail = before.trail if before else ()
        trail = (*trail, move.version) if isinstance(move, Promote) else trail[:-1]
        if not trail or trail[-1] != move.version:
            continue
        now[move.alias] = Alias(
            name=move.alias, seq=entry.seq, trail=trail, actor=entry.actor, time=entry.time, why=move.why
        )
        made.append(now[move.alias])
    return made


def aliases(entries: Sequence[Entry]) -> dict[str, Alias]:
    """The aliases of a track, by name."""
    last = {move.name: move for move in moves(entries)}
    return {name: last[name] for name in sorted(last)}


def by_version(entries: Sequence[Entry]) -> dict[int, list[Alias]]:
    """The aliases of a track, by the version that they name."""
    named: dict[int, list[Alias]] = {}
    for alias in aliases(entries).values():
        named.setdefault(alias.version, []).append(alias)
    return named


def at(entries: Sequence[Entry], name: str, moment: str) -> Alias | None:
    """Where an alias stood at a time (ISO 8601; UTC if it names no zone), by the clocks of those who moved it.

    Raises ConfigError if `moment` is not a time.
    """
    try:
        then = _utc(moment)
    except ValueError:
        raise ConfigError(f"--at {moment!r}: no time; write it as 2026-01-31T12:00 (UTC)") from None
    past = [move for move in moves(entries) if move.name == name and _utc(move.time) <= then]
    return past[-1] if past else None


def _utc(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
