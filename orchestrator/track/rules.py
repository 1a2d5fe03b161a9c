"""A team's rules for its adapters: bounds for promotion, and keys that may sign. They are a log of their own:

    t/<team>/.policy/log/…   entries of op `rules`, each with the whole rules; the newest holds

They are a log, not a file, for the same reasons as a track: a change is made from the revision that was seen; its
author, time and reason stand beside it; and the revision that judged a promotion can be read later. No track can have
this name.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, TypeVar
from weakref import WeakKeyDictionary

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from cluster.errors import ConfigError, IntegrityError
from cluster.schema import Frozen
from cluster.storage import Store
from cluster.words import did_you_mean
from orchestrator.config.bounds import BoundsConfig
from orchestrator.config.errors import Yaml
from orchestrator.log import signing
from orchestrator.log.chain import Log, Says
from orchestrator.log.entry import NAME, Entry
from orchestrator.log.event import Requirement, fault_of, parse, shown, told
from orchestrator.log.signing import PublicKey, Trust
from orchestrator.track.events import ROLES, Rules
from orchestrator.track.layout import RULES, list_tracks, rules_root
from orchestrator.track.requirements import RulesAt

Role = Literal["publisher", "promoter", "gc", "admin", "evaluator"]
Model = TypeVar("Model", bound=Frozen)
KNOWN_S = 60.0  # how long a reader keeps a team's rules: a key that others remove is valid for that much longer
_known: WeakKeyDictionary[Store, dict[str, tuple[float, Trust]]] = WeakKeyDictionary()


class PromotionRule(BoundsConfig):
    """Bounds on the version that is promoted, see `BoundsConfig`, and people: with `approval` somebody must have
    approved of the version, `overriders` are those who may set broken bounds aside, null is every promoter. They are
    owners of keys if signatures are required, else user names."""

    added: ClassVar[tuple[str, ...]] = (*BoundsConfig.added, "approval", "overriders")

    approval: bool = False
    overriders: tuple[str, ...] | None = None


class KeyRule(Frozen):
    """A public key (PEM, ed25519) and what its owner may do. Any of them may record scores, which is all that an
    `evaluator` may."""

    public_key: str
    roles: tuple[Role, ...] = ("publisher", "promoter", "gc", "admin")

    @field_validator("public_key")
    @classmethod
    def _is_one(cls, pem: str) -> str:
        signing.public_key(pem)
        return pem


class Unsigned(Frozen):
    """The last entry of a track that needs no signature."""

    seq: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TeamRules(Frozen):
    """A team's rules. `promotion` is by alias, `keys` by owner, `unsigned` by track."""

    promotion: dict[str, PromotionRule] = Field(default_factory=dict)
    signatures: Literal["off", "required"] = "off"
    keys: dict[str, KeyRule] = Field(default_factory=dict)
    unsigned: dict[str, Unsigned] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_changed_again(self) -> "TeamRules":
        if self.signatures == "required" and not any("admin" in key.roles for key in self.keys.values()):
            raise ValueError("signatures: required needs a key with the role admin, or nobody could change these rules")
        return self

    @property
    def trust(self) -> Trust:
        """Their requirements on signatures."""
        raw = {owner: signing.public_key(key.public_key) for owner, key in self.keys.items()}
        keys = {signing.key_id(raw[o]): PublicKey(raw[o], o, frozenset(key.roles)) for o, key in self.keys.items()}
        unsigned = {track: (each.seq, each.sha256) for track, each in self.unsigned.items()}
        return Trust(required=self.signatures == "required", keys=keys, roles=ROLES, unsigned=unsigned)


class TeamLog(Log):
    """A log of a team whose entries must meet the team's rules, if these ask for signatures."""

    def __init__(self, store: Store, root: str, team: str, named: str) -> None:
        super().__init__(store, root, f"{team}/{named}")
        self.team, self.named = team, named

    @property
    def trust(self) -> Trust:
        """See Log."""
        return team_trust(self.store, self.team)

    def check(self, entries: Sequence[Entry]) -> None:
        """See Log."""
        trust = self.trust
        if entries and entries[-1].seq < self._vouched_for(trust):
            raise self._cut(trust)
        for entry in entries if trust.required else ():
            if fault := signing.entry_fault(entry, self.label, trust):
                raise self._broken(entry.seq, fault)
        super().check(entries)

    def _vouched_for(self, trust: Trust) -> int:
        """The last entry that the team's rules vouch for, before which none need be signed; 0 if there is none."""
        return trust.unsigned.get(self.named, (0, ""))[0] if trust.required else 0

    def _cut(self, trust: Trust) -> IntegrityError:
        return IntegrityError(
            f"store {self.store.uri}: the log of {self.label} ends before entry {self._vouched_for(trust)}, which the "
            f"team's rules vouch for; restore it, or, if that was meant, remove `unsigned.{self.named}` from the rules"
        )

    def _nothing(self, seen: int) -> None:
        """See Log. If signatures are asked for, a log that is gone is no new one."""
        trust = self.trust
        if self._vouched_for(trust):
            raise self._cut(trust)
        if trust.required and seen:
            raise self._older(seen)
        super()._nothing(seen)


class RulesLog(Log):
    """The rules of a team and their history. If one revision asks for signatures, the next must be signed by one
    of its admins."""

    def __init__(self, store: Store, team: str) -> None:
        if not NAME.fullmatch(team):
            raise ConfigError(f"team: {team!r} is no name; use a-z 0-9, then also . _ -, at most 100 characters")
        super().__init__(store, rules_root(team), f"{team}/{RULES}")
        self.team = team

    def check(self, entries: Sequence[Entry]) -> None:
        """See Log. Entries that do not begin with the first cannot be judged. They are judged when all are read."""
        trust = Trust()
        for entry in entries if entries and entries[0].seq == 1 else ():
            if fault := signing.entry_fault(entry, self.label, trust):
                raise self._broken(entry.seq, fault)
            trust = self._parsed(entry).trust

    @property
    def trust(self) -> Trust:
        """See Log. The requirements of the revision that holds now."""
        return self.current()[1].trust

    def current(self) -> tuple[int, TeamRules]:
        """The revision, 0 if none was ever made, and the rules."""
        entries = self.entries()
        return (entries[-1].seq, self._parsed(entries[-1])) if entries else (0, TeamRules())

    def append(self, says: Says, *, after: Entry | None, requires: Requirement | None = None) -> Entry:
        """See Log. This process forgets the rules that it had read."""
        try:
            return super().append(says, after=after, requires=requires)
        finally:
            forget_trust(self.store)

    def _nothing(self, seen: int) -> None:
        """See Log. Rules that were seen here are not forgotten while the team has tracks: without them, nothing that
        is read need be signed."""
        if seen and list_tracks(self.store, self.team):
            raise IntegrityError(
                f"store {self.store.uri}: the rules of team {self.team} ({self.root}) are gone, of which revision "
                f"{seen} was seen here before, while the team has tracks; restore them, or, if that was meant, remove "
                f"{self.seen.path}"
            )
        super()._nothing(seen)

    def _maybe_index(self, entry: Entry) -> None:
        """None: every entry is a revision, which the `index` entry would not be."""

    def change(self, rules: TeamRules, *, expect: int, why: str) -> Entry:
        """Puts other rules in place of revision `expect`. Raises ConflictError if that is not the newest."""
        entries = self.entries()
        event = Rules(rules=rules.model_dump(mode="json"), why=why)
        after = entries[-1] if entries else None
        return self.append(event, after=after, requires=RulesAt(self.label, expect, entries))

    def _parsed(self, entry: Entry) -> TeamRules:
        fault = fault_of(entry, Rules) if entry.op == Rules.op else f"op: {shown(entry.op)}"
        if fault is None:
            rules = parse(entry, Rules).rules
            try:
                return TeamRules.stored(rules)
            except ValidationError as error:
                fault = f"rules: {told(error, rules)}"
        raise IntegrityError(
            f"store {self.store.uri}: entry {entry.seq} ({self._key(entry.seq)}) holds no rules that this Orthoplex "
            f"knows: {fault}; update orthoplex, or restore a backup of it"
        )


def team_trust(store: Store, team: str) -> Trust:
    """The team's requirements on signatures, as this process read them within the last `KNOWN_S` seconds."""
    known, now = _known.setdefault(store, {}), time.monotonic()
    if team not in known or now - known[team][0] > KNOWN_S:
        known[team] = now, RulesLog(store, team).current()[1].trust
    return known[team][1]


def forget_trust(store: Store) -> None:
    """Has `team_trust` read all rules again. A writer must call it before it writes."""
    _known.pop(store, None)


def parse_rule(content: Mapping[str, Yaml], origin: str) -> PromotionRule:
    """As `parse_rules`, for the bounds of one alias, or of a rules file."""
    return _parsed(PromotionRule, content, origin)


def parse_rules(content: Mapping[str, Yaml], origin: str) -> TeamRules:
    """Validates a mapping; `origin` heads the message. Raises ConfigError, which lists all errors, one per line."""
    return _parsed(TeamRules, content, origin)


def _parsed(kind: type[Model], content: Mapping[str, Yaml], origin: str) -> Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [_line(kind, each, content) for each in error.errors(include_input=False)]  # it may be a private key
        raise ConfigError("\n  ".join([f"{origin}: {len(lines)} error(s) in the rules", *lines])) from None


def _line(kind: type[Frozen], error: ErrorDetails, content: Mapping[str, Yaml]) -> str:
    path = [str(key) for key in error["loc"]]
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        said = f"unknown key; {_known_instead(kind, path)}"
    elif error["type"] == "less_than_equal":
        said += _as_fraction(content, path)
    return f"{'.'.join(path) or 'rules'}: {said}"


def _known_instead(kind: type[Frozen], path: Sequence[str]) -> str:
    """What to write in place of an unknown key."""
    if kind is PromotionRule and path[0] in ("guards", "promotion"):
        return f"the keys of a rules file stand at its top; take {path[0]}: around them away"
    inner: dict[str, type[Frozen]] = {"promotion": PromotionRule, "keys": KeyRule, "unsigned": Unsigned}
    known = [*(kind if len(path) == 1 else inner.get(path[0], kind)).model_fields]
    return did_you_mean(path[-1], known) or f"known here: {', '.join(known)}"


def _as_fraction(content: Mapping[str, Yaml], path: Sequence[str]) -> str:
    """The fraction that a number of percent or points is; empty if it is none."""
    found: Yaml = content
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return f"; fractions: {found / 100:g}" if isinstance(found, int | float) and 1 < found <= 100 else ""
