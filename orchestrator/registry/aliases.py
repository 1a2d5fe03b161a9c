"""Names for versions, `production` or any other, that people move. There is none that moves by itself.

Each move is a log entry, `promote` or `rollback`: {alias, version, expect, why, …}. `expect` is the seq of the entry
that moved the alias last (0: none), as its writer saw it; an entry counts only where that is still so. Comparing
versions instead would let two win where an alias was moved there and back in between.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cluster.errors import ConfigError, ConflictError
from orchestrator.log.decision import Decision
from orchestrator.log.entry import NAME, Entry
from orchestrator.track.bounds import judge
from orchestrator.track.rules import PromotionRule, RulesLog
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track

MOVES = ("promote", "rollback")
VERSION = re.compile(r"v[0-9]+")


@dataclass(frozen=True)
class Alias:
    """Where an alias points. `seq` is the entry that moved it last, `trail` the versions that rollbacks go back to,
    the current one last; `actor`, `time` and `why` are of that entry."""

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
    """Every move that counts, in order, as the alias stood after it."""
    made = list[Alias]()
    now: dict[str, Alias] = {}
    for entry in entries:
        if entry.op not in MOVES:
            continue
        name, version, expect = (entry.body.get(key) for key in ("alias", "version", "expect"))
        before = now.get(str(name))
        if not (isinstance(name, str) and type(version) is int and expect == (before.seq if before else 0)):
            continue
        trail = before.trail if before else ()
        trail = (*trail, version) if entry.op == "promote" else trail[:-1]
        if not trail or trail[-1] != version:
            continue
        now[name] = Alias(name, entry.seq, trail, entry.actor, entry.time, str(entry.body.get("why", "")))
        made.append(now[name])
    return made


def aliases(entries: Sequence[Entry]) -> dict[str, Alias]:
    """The aliases of a track, by name."""
    last = {move.name: move for move in moves(entries)}
    return {name: last[name] for name in sorted(last)}


def at(entries: Sequence[Entry], name: str, moment: str) -> Alias | None:
    """Where an alias stood at a time (ISO 8601; UTC where it names no zone), by the clocks of those who moved it.

    Raises ConfigError where that is no time.
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


def judged(rule: PromotionRule, state: RunState, version: int) -> list[Decision]:
    """The bounds on a promotion, each with its decision. What counts is the validation matrix up to that version."""
    upto = replace(state, commits=tuple(commit for commit in state.commits if commit["version"] <= version))
    return judge(rule, upto.measured, f"v{version}")


def promote(track: Track, version: int, alias: str, *, expect: int | None = None, why: str = "") -> Entry:
    """Points an alias at a version. `expect` is the seq of the move that the caller saw last; without it, what is read.

    Raises:
        ConfigError: the alias is no name, there is no such version, or the team's rules forbid it.
        ConflictError: the alias was moved by another since.
    """
    if not NAME.fullmatch(alias) or VERSION.fullmatch(alias):
        raise ConfigError(f"--alias {alias!r}: no name for an alias; use a-z 0-9, then also . _ -, not v and a number")
    revision, rules = RulesLog(track.store, track.team).current()
    measured: dict[str, Any] = {}

    def compose(entries: Sequence[Entry], _before: Alias | None) -> int:
        state = _state(track, entries)
        check_version(state, version)
        rule = rules.promotion.get(alias)
        decisions = judged(rule, state, version) if rule else []
        if faults := [each.reason for each in decisions if each.verdict == "stop"]:
            shown = "\n".join(f"  {fault}" for fault in faults)
            raise ConfigError(
                f"{track.label}@v{version} may not become {alias}, by revision {revision} of the team's rules:\n{shown}"
            )
        measured.update(rules_revision=revision)
        if decisions:
            measured.update(decisions=[each.model_dump() for each in decisions])
        return version

    return _move(track, "promote", alias, compose, measured, expect=expect, why=why)


def rollback(track: Track, alias: str, *, expect: int | None = None, why: str = "") -> Entry:
    """Points an alias at the version before the one it was last promoted to; the team's bounds are not asked.

    Raises:
        ConfigError: there is no such alias, or nothing before it. ConflictError: as in `promote`.
    """

    def compose(entries: Sequence[Entry], before: Alias | None) -> int:
        if before is None or len(before.trail) < 2:
            raise ConfigError(
                f"{track.label}: the alias {alias!r} has nothing to go back to; `adapters list` shows what there is"
            )
        check_version(_state(track, entries), before.trail[-2])
        return before.trail[-2]

    return _move(track, "rollback", alias, compose, {}, expect=expect, why=why)


def _move(
    track: Track,
    op: str,
    alias: str,
    compose: Callable[[Sequence[Entry], Alias | None], int],
    more: Mapping[str, Any],
    *,
    expect: int | None,
    why: str,
) -> Entry:
    entries = track.entries()
    before = aliases(entries).get(alias)
    last = before.seq if before else 0
    if expect is not None and expect != last:
        raise _moved(track, alias, expect, entries)
    version = compose(entries, before)

    def unmoved(since: Sequence[Entry]) -> None:
        now = aliases([*entries, *since]).get(alias)
        if (now.seq if now else 0) != last:
            raise _moved(track, alias, last, [*entries, *since])
        check_version(_state(track, [*entries, *since]), version)

    body = {"alias": alias, "version": version, "expect": last, "why": why, **more}
    return track.append(op, body, after=entries[-1] if entries else None, valid=unmoved)


def check_version(state: RunState, version: int) -> None:
    """Raises ConfigError where a run has no such version, or no more."""
    have = [commit["version"] for commit in state.commits]
    if version in state.deleted:
        raise ConfigError(f"{state.team}/{state.name}@v{version}: was deleted by `adapters gc`; choose another version")
    if version not in have:
        shown = ", ".join(f"v{each}" for each in have) or "none"
        raise ConfigError(
            f"{state.team}/{state.name}@v{version}: no such version; {state.team}/{state.name} has {shown}"
        )


def _state(track: Track, entries: Sequence[Entry]) -> RunState:
    return replay(track.team, track.name, entries)


def _moved(track: Track, alias: str, expect: int, entries: Sequence[Entry]) -> ConflictError:
    now = aliases(entries).get(alias)
    where = f"entry {now.seq} moved it last, to v{now.version} ({now.actor}, {now.time})" if now else "it is not set"
    return ConflictError(
        f"{track.label}@{alias}: expected entry {expect} to have moved it last, but {where}; look again"
    )
