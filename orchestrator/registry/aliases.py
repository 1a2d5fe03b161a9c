"""Names for versions, `production` or any other, that people move. No alias moves by itself.

`orchestrator.track.moves` replays where they point.
"""

from collections.abc import Sequence

from cluster.errors import ConfigError
from orchestrator.gates.bounds import judge
from orchestrator.gates.figures import measured
from orchestrator.log.decision import Decision
from orchestrator.log.entry import NAME, Entry
from orchestrator.registry.references import VERSION
from orchestrator.track.aside import Promote, Rollback
from orchestrator.track.events import refuse_unknown
from orchestrator.track.moves import Alias, aliases
from orchestrator.track.requirements import AliasAt, moved
from orchestrator.track.rules import PromotionRule, RulesLog
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track


def judged(rule: PromotionRule, state: RunState, version: int) -> list[Decision]:
    """One decision per bound on a promotion. The validation matrix up to that version is judged."""
    return judge(rule, measured(state.upto(version)), f"v{version}", final=True)


def promote(track: Track, version: int, alias: str, *, expect: int | None = None, why: str = "") -> Entry:
    """Points an alias at a version. `expect` is the seq of the move that the caller saw last; default: the newest one.

    Raises:
        ConfigError: the alias is not a valid name, there is no such version, or the team's rules forbid it.
        ConflictError: another has moved the alias since.
        StoreError: a newer Orthoplex wrote to the log.
    """
    if not NAME.fullmatch(alias) or VERSION.fullmatch(alias):
        raise ConfigError(f"--alias {alias!r}: not an alias; use a-z 0-9, then also . _ -, not v and a number")
    revision, rules = RulesLog(track.store, track.team).current()
    entries = track.entries()
    before = _as_expected(track, entries, alias, expect)
    state = replay(track.team, track.name, entries)
    state.version(version)
    rule = rules.promotion.get(alias)
    decisions = judged(rule, state, version) if rule else []
    if faults := [each.reason for each in decisions if each.verdict == "stop"]:
        shown = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(
            f"{track.label}@v{version} may not become {alias}, by revision {revision} of the team's rules:\n{shown}"
        )
    seq = before.seq if before else 0
    event = Promote(alias=alias, version=version, expect=seq, why=why, rules_revision=revision)
    return _append(track, entries, event.with_decisions(decisions))


def rollback(track: Track, alias: str, *, expect: int | None = None, why: str = "") -> Entry:
    """Points an alias at the version before the one it was last promoted to. The team's bounds are not checked.

    Raises:
        ConfigError: there is no such alias, or nothing before it. ConflictError, StoreError: as in `promote`.
    """
    entries = track.entries()
    before = _as_expected(track, entries, alias, expect)
    if before is None or len(before.trail) < 2:
        raise ConfigError(
            f"{track.label}: the alias {alias!r} has nothing to go back to; `adapters list` shows what there is"
        )
    version = before.trail[-2]
    replay(track.team, track.name, entries).version(version)
    return _append(track, entries, Rollback(alias=alias, version=version, expect=before.seq, why=why))


def _as_expected(track: Track, entries: Sequence[Entry], alias: str, expect: int | None) -> Alias | None:
    """The alias as it points now; None if nobody set it. Raises ConflictError if the last move is not `expect`."""
    refuse_unknown(track.label, entries)
    now = aliases(entries).get(alias)
    if expect is not None and expect != (now.seq if now else 0):
        raise moved(track.label, alias, expect, now)
    return now


def _append(track: Track, entries: Sequence[Entry], event: Promote | Rollback) -> Entry:
    unmoved = AliasAt(
        label=track.label, alias=event.alias, seq=event.expect, version=event.version, entries=tuple(entries)
    )
    return track.append(event, after=entries[-1] if entries else None, requires=unmoved)
