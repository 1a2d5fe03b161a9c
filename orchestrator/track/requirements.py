"""Conditions that must still hold when an entry lands, see `orchestrator.log.event.Requirement`.

A writer makes each from the entries that it has read. It is checked before each attempt against the entries that others
wrote since. It raises ConflictError if one of them forbids the entry; then nothing was written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import ConflictError
from orchestrator.log.entry import Entry
from orchestrator.log.event import Requirement, events
from orchestrator.track.aside import ASIDE_OPS, Abort, Approval
from orchestrator.track.driving import Driver, counted, driving
from orchestrator.track.events import Commit
from orchestrator.track.moves import Alias, aliases
from orchestrator.track.state import replay


@dataclass(frozen=True)
class NoOtherDriver:
    """No other driver wrote to the log. Entries of non-drivers do not matter."""

    label: str

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        for other in since:
            if other.op not in ASIDE_OPS:
                raise ConflictError(
                    f"{self.label}: {other.actor} wrote entry {other.seq} ({other.op}) first, at {other.time}; another "
                    "driver is at work on this run: let it finish, or stop it, then run again"
                )


@dataclass(frozen=True, kw_only=True)
class LeaseHeld:
    """`driver` (None: nobody) still holds the log, of which `entries` were read. Messages call its subject `noun`."""

    label: str
    noun: str
    driver: Driver | None
    entries: Sequence[Entry]

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        if since and (now := driving(counted([*self.entries, *since])).driver) != self.driver:
            raise taken_over(self.label, self.noun, now)


def taken_over(label: str, noun: str, now: Driver | None) -> ConflictError:
    """Another driver holds the log now."""
    who = now.shown if now else "another driver"
    return ConflictError(f"{label}: {who} has taken the {noun} over; leave it to that one")


@dataclass(frozen=True, kw_only=True)
class AliasAt:
    """Entry `seq` (0: none) is still the one that moved the alias last, and `version` still stands."""

    label: str
    alias: str
    seq: int
    version: int
    entries: Sequence[Entry]

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement. Raises ConfigError if the version was deleted."""
        now = aliases([*self.entries, *since]).get(self.alias)
        if (now.seq if now else 0) != self.seq:
            raise moved(self.label, self.alias, self.seq, now)
        Stands(label=self.label, version=self.version, entries=self.entries).check(since)


@dataclass(frozen=True, kw_only=True)
class Stands:
    """`version` still stands; `entries` were read."""

    label: str
    version: int
    entries: Sequence[Entry]

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement. Raises ConfigError if the version was deleted."""
        team, _, name = self.label.partition("/")
        replay(team, name, [*self.entries, *since]).version(self.version)


@dataclass(frozen=True)
class NoNewWord:
    """Nobody has said anything of `version` since, as that it is rejected."""

    label: str
    version: int

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        for entry, said in events(since, Approval):
            if said.version == self.version:
                raise ConflictError(
                    f"{self.label}@v{self.version}: {entry.actor} wrote entry {entry.seq} ({said.state}) of it first, "
                    f"at {entry.time}; look again"
                )


def moved(label: str, alias: str, expect: int, now: Alias | None) -> ConflictError:
    """Another has moved the alias since entry `expect` did."""
    where = f"entry {now.seq} moved it last, to v{now.version} ({now.actor}, {now.time})" if now else "it is not set"
    return ConflictError(f"{label}@{alias}: expected entry {expect} to have moved it last, but {where}; look again")


@dataclass(frozen=True)
class NotCollected:
    """The garbage collector has not taken the files at `prefix` for left over; `gone` are those that it had taken."""

    label: str
    prefix: str
    gone: frozenset[str] = frozenset()

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        if self.prefix in self.gone | aborted(since):
            raise ConflictError(
                f"{self.label}: `adapters gc` took {self.prefix} for left over before it was committed; publish it "
                "again, and give gc a longer --grace"
            )


def aborted(entries: Sequence[Entry]) -> frozenset[str]:
    """The prefixes that the garbage collector took for left over."""
    return frozenset(prefix for _, abort in events(entries, Abort) for prefix in abort.prefixes)


@dataclass(frozen=True)
class Uncommitted:
    """Nobody has committed one of these prefixes."""

    label: str
    prefixes: frozenset[str]

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        if self.prefixes & {commit.prefix for _, commit in events(since, Commit)}:
            raise ConflictError(f"{self.label}: what no commit named was committed meanwhile; look again")


@dataclass(frozen=True, kw_only=True)
class SameVersions:
    """The versions from `first` on are `versions`, and no alias names one of them; `entries` were read."""

    label: str
    first: int
    versions: frozenset[int]
    entries: Sequence[Entry]

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        read = [*self.entries, *since]
        if {
            commit.version for commit in replay("", "", read).standing if commit.version >= self.first
        } != self.versions:
            raise ConflictError(f"{self.label}: a version was added or deleted meanwhile; look again")
        for alias in aliases(read).values() if since else ():
            if alias.version in self.versions:
                raise ConflictError(f"{self.label}: {alias.name} names v{alias.version} since; move that alias first")


@dataclass(frozen=True)
class RulesAt:
    """The team's rules are still at revision `expect`; `entries` is their log as it was read."""

    label: str
    expect: int
    entries: Sequence[Entry]

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        read = [*self.entries, *since]
        if since or len(read) != self.expect:
            by = read[-1].actor if read else "nobody"
            raise ConflictError(
                f"{self.label}: the rules are at revision {len(read)} (by {by}), not {self.expect}; read them"
            )


@dataclass(frozen=True)
class All:
    """Each of several requirements."""

    each: tuple[Requirement, ...]

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        for requirement in self.each:
            requirement.check(since)
