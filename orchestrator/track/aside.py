"""The entries that others than drivers write to a track's log, see `events`. They never stop a driver at work.

promote rollback                people who move aliases
approval                        people who judge versions
orphans abort delete index      the garbage collector, and listing
"""

from typing import Literal

from orchestrator.log.event import Count, Event, Index, Int
from orchestrator.track.layout import VersionNumber

ApprovalState = Literal["pending", "approved", "rejected"]


class Move(Event):
    """An alias is pointed at a version. `expect` is the seq of the entry that moved it last, 0 if none did.
    `overridden` are the rules that its writer set aside, for the reason `why`; `decisions` say how they were broken."""

    alias: str
    version: VersionNumber
    expect: Count
    why: str = ""
    overridden: tuple[str, ...] = ()


class Promote(Move):
    """Forward, within the bounds of revision `rules_revision` of the team's rules."""

    op = "promote"
    rules_revision: Int = 0


class Rollback(Move):
    """Back to the version before."""

    op = "rollback"


class Approval(Event):
    """A person's word on a version, of which `manifest_sha256` names the bytes: it asks for approval (`pending`), or
    gives or refuses it."""

    op = "approval"
    version: VersionNumber
    manifest_sha256: str
    state: ApprovalState
    why: str = ""


class Housekeeping(Event):
    """An entry of the garbage collector about the files at `prefixes`."""

    prefixes: tuple[str, ...]


class Orphans(Housekeeping):
    """No commit names these prefixes."""

    op = "orphans"


class Abort(Housekeeping):
    """These prefixes are collected: no later commit may name them."""

    op = "abort"


class Delete(Housekeeping):
    """Versions that a person deleted, and their prefixes."""

    op = "delete"
    versions: tuple[VersionNumber, ...]
    why: str = ""


MOVES: tuple[type[Move], ...] = (Promote, Rollback)
HOUSEKEEPING: dict[str, type[Housekeeping]] = {kind.op: kind for kind in (Orphans, Abort, Delete)}
ASIDE: tuple[type[Event], ...] = (*MOVES, Approval, *HOUSEKEEPING.values(), Index)
ASIDE_OPS = frozenset(kind.op for kind in ASIDE)  # operations that drivers do not write
ASIDE_ROLES = {
    **dict.fromkeys((Promote.op, Rollback.op, Approval.op), "promoter"),
    **dict.fromkeys(HOUSEKEEPING, "gc"),
    Index.op: "",
}
