"""Whether a version keeps the bounds that are set for it: before it is promoted, and as a step of a pipeline."""

from collections.abc import Sequence

from cluster.errors import ConfigError
from cluster.storage import Store
from orchestrator.config.bounds import READS_ACCURACY, BoundsConfig
from orchestrator.gates.bounds import judge
from orchestrator.gates.figures import measured
from orchestrator.gates.noise import Kept, kept_rows, noise
from orchestrator.gates.verdict import Verdict
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry
from orchestrator.registry.approvals import judge_word, word_on
from orchestrator.registry.references import find_track, resolve
from orchestrator.track.events import Commit
from orchestrator.track.rules import PromotionRule, RulesLog
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track

GUARDS = "guards."  # heads the rules of a run's own guards


def judged(rule: BoundsConfig, state: RunState, version: int, kept: Kept | None = None) -> list[Decision]:
    """One decision per bound on a promotion. The validation matrix up to that version is judged."""
    then = state.upto(version)
    known = noise(rule, then, kept) if kept else {}
    return judge(rule, measured(then), f"v{version}", final=True, noise=known)


def guarded(state: RunState, version: int, kept: Kept) -> list[Decision]:
    """The decisions of the run's own guards on a version, as its newest configuration has them; none without one."""
    config, then = state.readable_config(), state.upto(version)
    if config is None or not config.guards.asks([*type(config.guards).model_fields]):
        return []
    figures, known = measured(then, last_whole=True), noise(config.guards, then, kept)
    return judge(config.guards, figures, f"v{version}", GUARDS, noise=known)


def promotable(
    track: Track, entries: Sequence[Entry], state: RunState, version: int, rule: PromotionRule | None
) -> list[Decision]:
    """Every decision on a promotion: the team's rule for the alias, if there is one, the run's own guards, and what
    people said of the version."""
    kept = kept_rows(track)
    by_rule = judged(rule, state, version, kept) if rule else []
    word = word_on(entries, state.version(version))
    said = judge_word(word, version, needed=bool(rule and rule.approval))
    return [*by_rule, *guarded(state, version, kept), *said]


def gate(
    store: Store, name: str, rules: PromotionRule | None = None, alias: str | None = None, origin: str = ""
) -> Verdict:
    """Judges a version, `team/run@vN` or `@ALIAS`; or what a run learned last, be it quarantined. By `rules`, which are
    of `origin`; else by the team's rules for an alias, with all that a promotion asks; else by the run's own guards.

    Raises:
        ConfigError: there is no such version, nothing was learned, or nothing is bounded.
    """
    track, entries, state, quarantined = _subject(store, name)
    commit, kept = state.commits[-1], kept_rows(track)
    bounds: PromotionRule | None
    if rules is not None:
        bounds, found = rules, judged(rules, state, commit.version, kept)
        found += judge_word(word_on(entries, commit), commit.version, needed=rules.approval)
    elif alias is not None:
        revision, team = RulesLog(track.store, track.team).current()
        origin = f"promotion.{alias} of revision {revision} of the team's rules"
        bounds = team.promotion.get(alias)
        found = promotable(track, entries, state, commit.version, bounds)
    else:
        origin, bounds, found = "the run's own guards", None, guarded(state, commit.version, kept)
    if not found:
        raise ConfigError(f"gate {name!r}: nothing is bounded by {origin}; name bounds with --rules FILE")
    return Verdict(
        ref=f"{track.label}@v{commit.version}", task=commit.task, origin=origin, quarantined=quarantined,
        decisions=tuple(found), notes=tuple(compared_plainly(bounds, found, kept, commit)) if bounds else (),
    )  # fmt: skip


def compared_plainly(bounds: BoundsConfig, decisions: Sequence[Decision], kept: Kept, commit: Commit) -> list[str]:
    """A note on the bounds that `confidence` should concern, but whose rows were not kept; `commit` is the
    newest task."""
    asked = bounds.asks(READS_ACCURACY) if bounds.confidence is not None else []
    plain = [each.rule for each in decisions if each.rule in asked and each.measured is not None and not each.limits]
    if not plain:
        return []
    lacking = "some scores of single rows that this needs were not kept, or are of other rows"
    off = "the run kept no scores of single rows; with evaluate.keep_rows: true a run keeps them"
    return [
        f"confidence {bounds.confidence:g} is not used: {', '.join(plain)} compared plainly, since "
        f"{lacking if kept(commit) else off}"
    ]


def _subject(store: Store, name: str) -> tuple[Track, list[Entry], RunState, bool]:
    """The track, its log, the state up to what is judged, and whether that is quarantined."""
    if "@" in name:
        found = resolve(store, name)
        return found.track, found.entries, found.state.upto(found.commit.version), False
    track = find_track(store, name)
    entries = track.entries()
    state = replay(track.team, track.name, entries)
    if not state.reached.commits:
        raise ConfigError(f"gate {name!r}: {track.label} has learned nothing yet; run it first")
    return track, entries, state.reached, state.quarantined is not None
