"""What can go: files that no commit names, versions that somebody deleted, stale indices, what killed writers left.

A pure function says what to do; `Collector` does it, in an order that never leaves a commit without its files:

1. `orphans` names the prefixes that no commit names, when they are first seen.
2. `abort` names those that were orphans for a grace period. From then on no commit that names them is taken, and the
   entry itself is not taken where one was committed in between.
3. Only then are their files removed. Versions go the same way: `delete` first, their files a grace period later.

Times are those of the log. Nothing in `log/` is ever removed.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.errors import ConfigError, ConflictError
from cluster.storage import LocalStore, Store
from orchestrator.log.chain import READERS
from orchestrator.log.entry import Entry
from orchestrator.registry.aliases import aliases
from orchestrator.track.state import replay
from orchestrator.track.track import Track, aborted

KEPT_INDICES = 2
LEFT_BEHIND_S = 3600.0  # a temporary file this old belongs to no living writer
TRIES = 5


@dataclass(frozen=True)
class Decision:
    """What one track needs. `orphans` are new, `waiting` within their grace, `abort` past it. `remove` holds prefixes
    whose files may go at once, once `abort` stands in the log; `indices` the seq of checkpoints."""

    orphans: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    abort: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()


def decide(
    entries: Sequence[Entry], found: Sequence[str], indices: Sequence[int], now: datetime, grace: timedelta
) -> Decision:
    """`found`: the prefixes that have files; `indices`: up to where each index reaches, the newest first."""
    committed, gone = {commit["prefix"] for commit in replay("", "", entries).commits}, aborted(entries)
    first_seen: dict[str, datetime] = {}
    deleted_at: dict[str, datetime] = {}
    for entry in entries:
        known = {"orphans": first_seen, "delete": deleted_at}.get(entry.op, {})
        for prefix in entry.body.get("prefixes", ()) if entry.op in ("orphans", "delete") else ():
            known.setdefault(prefix, datetime.fromisoformat(entry.time))
    loose = [prefix for prefix in found if prefix not in committed]
    living = [prefix for prefix in loose if prefix not in gone]
    due = [prefix for prefix in living if grace <= now - first_seen.get(prefix, now)]
    past = [prefix for prefix in found if prefix in deleted_at and grace <= now - deleted_at[prefix]]
    return Decision(
        orphans=tuple(prefix for prefix in living if prefix not in first_seen),
        waiting=tuple(prefix for prefix in living if prefix not in due),
        abort=tuple(due),
        remove=tuple(sorted({*(p for p in loose if p in gone), *due, *past})),
        indices=tuple(indices[KEPT_INDICES:]),
    )


class Collector:
    """Housekeeping of one track. `grace` of zero collects at once what others may still be writing or reading: they
    are then refused, not harmed."""

    def __init__(self, track: Track, grace: timedelta) -> None:
        self.track, self.grace = track, grace

    def look(self) -> Decision:
        """What there is to do. Reads alone."""
        return self._look()[1]

    def collect(self) -> Decision:
        """Does it, and returns what was done. Raises ConflictError where others commit all the time."""
        for attempt in range(TRIES):
            entries, decision = self._look()
            try:
                self._write(entries, decision)
                break
            except ConflictError:
                if attempt == TRIES - 1:
                    raise
        remove_prefixes(self.track.store, decision.remove)
        for seq in decision.indices:
            self.track.store.delete(self.track.index_key(seq))
        return decision

    def delete(self, version: int, why: str) -> Entry:
        """Takes a version and all after it, which stand on it, away; their files go a grace period later.

        Raises ConfigError where there is no such version or an alias names one of them.
        """
        entries = self.track.entries()
        doomed = self._doomed(entries, version)

        def still(since: Sequence[Entry]) -> None:
            if self._doomed([*entries, *since], version) != doomed:
                raise ConflictError(f"{self.track.label}: a version was added or deleted meanwhile; look again")

        body = {"versions": sorted(doomed), "prefixes": [doomed[each] for each in sorted(doomed)], "why": why}
        return self.track.append("delete", body, after=entries[-1], valid=still)

    def doomed(self, version: int) -> list[int]:
        """The versions that `delete` would take away; raises as it does."""
        return sorted(self._doomed(self.track.entries(), version))

    def _doomed(self, entries: Sequence[Entry], version: int) -> dict[int, str]:
        state = replay(self.track.team, self.track.name, entries)
        if version not in [commit["version"] for commit in state.commits] or version in state.deleted:
            raise ConfigError(f"--delete {self.track.label}@v{version}: no such version")
        named = {alias.name: alias.version for alias in aliases(entries).values() if alias.version >= version}
        if named:
            shown = ", ".join(f"{name} names v{number}" for name, number in named.items())
            raise ConfigError(f"--delete {self.track.label}@v{version}: {shown}; move that alias first")
        kept = [each for each in state.commits if each["version"] not in state.deleted]
        return {each["version"]: each["prefix"] for each in kept if each["version"] >= version}

    def _look(self) -> tuple[list[Entry], Decision]:
        found = [f"{self.track.version_root}/{name}" for name in self.track.store.list_folders(self.track.version_root)]
        entries = self.track.entries()  # after the listing: what was committed meanwhile is no orphan
        now = datetime.now(UTC)
        return entries, decide(entries, found, self.track.indices(), now, self.grace)

    def _write(self, entries: list[Entry], decision: Decision) -> None:
        def uncommitted(since: Sequence[Entry]) -> None:
            taken = {entry.body.get("prefix") for entry in since if entry.op == "commit"}
            if taken & {*decision.abort, *decision.orphans}:
                raise ConflictError(f"{self.track.label}: what no commit named was committed meanwhile; look again")

        after = entries[-1] if entries else None
        if decision.orphans and self.grace:
            after = self._append("orphans", decision.orphans, after, uncommitted)
        if decision.abort:
            self._append("abort", decision.abort, after, uncommitted)

    def _append(self, op: str, prefixes: Sequence[str], after: Entry | None, valid: Any) -> Entry:
        return self.track.append(op, {"prefixes": list(prefixes)}, after=after, valid=valid)


def remove_prefixes(store: Store, prefixes: Sequence[str]) -> None:
    """Removes every object below the prefixes; the manifest first, so that what is half removed cannot be read."""
    keys = [key for prefix in prefixes for key in store.list(f"{prefix}/")]
    keys.sort(key=lambda key: not key.endswith("/manifest.json"))
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(store.delete, keys))


def sweep_temporary(store: Store, *, remove: bool) -> int:
    """The files that killed writers left in a folder store more than an hour ago; removes them where told to."""
    if not isinstance(store, LocalStore) or not (folder := store.root / ".tmp").is_dir():
        return 0
    limit = time.time() - LEFT_BEHIND_S
    old = [path for path in folder.iterdir() if path.is_file() and path.stat().st_mtime < limit]
    for path in old if remove else ():
        path.unlink(missing_ok=True)
    return len(old)
