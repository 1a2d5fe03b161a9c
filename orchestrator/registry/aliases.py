"""Names for versions, `production` or any other, that people move. No alias moves by itself.

`orchestrator.track.moves` replays where they point.
"""

from collections.abc import Sequence
from typing import TypeVar

from cluster.errors import ConfigError, GuardStop
from orchestrator.log.decision import Decision
from orchestrator.log.entry import NAME, Entry, actor
from orchestrator.log.event import Requirement
from orchestrator.log.signing import Trust, sign
from orchestrator.registry.approvals import judge_word, word_on
from orchestrator.registry.gating import GUARDS, promotable
from orchestrator.registry.references import VERSION
from orchestrator.track.aside import Move, Promote, Rollback
from orchestrator.track.events import refuse_unknown
from orchestrator.track.moves import Alias, aliases
from orchestrator.track.requirements import AliasAt, All, NoNewWord, moved
from orchestrator.track.rules import RulesLog, TeamRules
from orchestrator.track.state import replay
from orchestrator.track.track import Track

Moving = TypeVar("Moving", bound=Move)


def promote(
    track: Track, version: int, alias: str, *, expect: int | None = None, why: str = "", override: bool = False
) -> Entry:
    """Points an alias at a version, if that keeps the team's rules for the alias and the run's own guards, and nobody
    has rejected it. With `override` its writer sets aside what is broken, for the reason `why`; the entry says so.

    `expect` is the seq of the move that the caller saw last; default: the newest one.

    Raises:
        ConfigError: the alias is not a valid name, there is no such version, or its writer may not override.
        GuardStop: a bound, a rejection or an approval that is lacking forbids it.
        ConflictError: another has moved the alias since.
        StoreError: a newer Orthoplex wrote to the log.
    """
    if not NAME.fullmatch(alias) or VERSION.fullmatch(alias):
        raise ConfigError(f"--alias {alias!r}: not an alias; use a-z 0-9, then also . _ -, not v and a number")
    _refuse_silence(override, why)
    revision, rules = RulesLog(track.store, track.team).current()
    entries = track.entries()
    before = _as_expected(track, entries, alias, expect)
    state = replay(track.team, track.name, entries)
    state.version(version)
    rule = rules.promotion.get(alias)
    decisions = promotable(track, entries, state, version, rule)
    broken = [each for each in decisions if each.verdict == "stop"]
    if broken and not override:
        raise _refused(
            f"{track.label}@v{version} may not become {alias}, by revision {revision} of the team's rules", broken
        )
    event = Promote(alias=alias, version=version, expect=before.seq if before else 0, why=why, rules_revision=revision)
    new = [each for each in decisions if each in broken or not each.rule.startswith(GUARDS)]  # others are in the log
    return _append(track, entries, _set_aside(event.with_decisions(new), rules, broken))


def _refuse_silence(override: bool, why: str) -> None:
    if override and not why.strip():
        raise ConfigError("--override: say why, with --why")


def _refused(told: str, broken: Sequence[Decision]) -> GuardStop:
    shown = "\n".join(f"  {each.reason}" for each in broken)
    return GuardStop(f"{told}:\n{shown}\n  (--override with --why sets this aside, in your name)")


def _set_aside(event: Moving, rules: TeamRules, broken: Sequence[Decision]) -> Moving:
    """The move with the name of who sets aside what is broken; itself if nothing is. Raises ConfigError if its writer
    may not."""
    if not broken:
        return event
    who, subject = _may_override(rules, event.alias), f"v{event.version}"
    by = Decision(rule="override", subject=subject, measured=who, verdict="override", reason=event.why)
    named = event.model_copy(update={"overridden": tuple(each.rule for each in broken)})
    return named.with_decisions([by])


def _may_override(rules: TeamRules, alias: str) -> str:
    """The name of this process's user, or of the owner of its key if signatures are required. Raises ConfigError unless
    the team's rules let them set bounds of the alias aside."""
    who, rule = writer(rules.trust), rules.promotion.get(alias)
    if rule and rule.overriders is not None and who not in rule.overriders:
        named = ", ".join(rule.overriders) or "nobody"
        raise ConfigError(f"--override: {who} may not, by promotion.{alias}.overriders of the team's rules: {named}")
    return who


def writer(trust: Trust) -> str:
    """Who writes: the owner of the key that signs, if signatures are required, else the user."""
    signature = sign("", "") if trust.required else None
    key = trust.keys.get(signature["key"]) if signature else None
    return key.owner if key else actor().rpartition("@")[0]


def rollback(track: Track, alias: str, *, expect: int | None = None, why: str = "", override: bool = False) -> Entry:
    """Points an alias at the version before the one it was last promoted to. The team's bounds are not checked; that
    nobody has rejected it is, unless its writer sets that aside with `override`, as in `promote`.

    Raises:
        ConfigError: there is no such alias, or nothing before it. GuardStop: that version is rejected.
        ConflictError, StoreError: as in `promote`.
    """
    _refuse_silence(override, why)
    rules = RulesLog(track.store, track.team).current()[1]
    entries = track.entries()
    before = _as_expected(track, entries, alias, expect)
    if before is None or len(before.trail) < 2:
        raise ConfigError(
            f"{track.label}: the alias {alias!r} has nothing to go back to; `adapters list` shows what there is"
        )
    version = before.trail[-2]
    commit = replay(track.team, track.name, entries).version(version)
    said = judge_word(word_on(entries, commit), version, needed=False)
    broken = [each for each in said if each.verdict == "stop"]
    if broken and not override:
        raise _refused(f"{track.label}@{alias} may not go back to v{version}", broken)
    event = Rollback(alias=alias, version=version, expect=before.seq, why=why).with_decisions(broken)
    return _append(track, entries, _set_aside(event, rules, broken))


def _as_expected(track: Track, entries: Sequence[Entry], alias: str, expect: int | None) -> Alias | None:
    """The alias as it points now; None if nobody set it. Raises ConflictError if the last move is not `expect`."""
    refuse_unknown(track.label, entries)
    now = aliases(entries).get(alias)
    if expect is not None and expect != (now.seq if now else 0):
        raise moved(track.label, alias, expect, now)
    return now


def _append(track: Track, entries: Sequence[Entry], event: Move) -> Entry:
    needs: tuple[Requirement, ...] = (
        AliasAt(label=track.label, alias=event.alias, seq=event.expect, version=event.version, entries=tuple(entries)),
        NoNewWord(track.label, event.version),
    )
    return track.append(event, after=entries[-1] if entries else None, requires=All(needs))
