"""Removes files that no commit names, deleted versions, stale indices, and leftovers of killed writers.

A pure function plans the work. `Collector` does it, in an order that never leaves a commit without its files:

1. `orphans` names the prefixes that no commit names, when they are first seen.
2. `abort` names those that were orphans for a grace period. From then on no commit that names them is accepted. The
   entry itself is not accepted if one of them was committed in between.
3. Only then are their files removed. Versions go the same way: `delete` first, their files a grace period later.

On a full disk each run goes the other way round: what the log lets go already is removed first, then what `abort` names
goes, and `orphans`, which frees nothing yet, comes last. If there is no room even for an entry, the store's reserve is
given up for it (`LocalStore.keep_reserve`), else the indices, which only save time.

Times are those of the log. Nothing in `log/` is ever removed.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cluster.errors import ConfigError, ConflictError
from cluster.storage import LocalStore, Store
from cluster.storage.disk import DiskFullError
from orchestrator.log.chain import READERS
from orchestrator.log.entry import Entry
from orchestrator.log.event import events
from orchestrator.track.aside import Abort, Delete, Orphans
from orchestrator.track.events import refuse_unknown
from orchestrator.track.layout import MANIFEST
from orchestrator.track.moves import aliases
from orchestrator.track.requirements import SameVersions, Uncommitted, aborted
from orchestrator.track.state import replay
from orchestrator.track.track import Track

KEPT_INDICES = 2
LEFT_BEHIND_S = 3600.0  # a temporary file this old belongs to no living writer
TRIES = 5
FEW = "gc must note what it removes before it frees it; a few KiB more on that disk are enough"
AT_ONCE = 100  # prefixes per entry, which then fits into the reserve


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The work on one track. `orphans` are new, `waiting` are within their grace period, `abort` are past it. `remove`
    holds the prefixes whose files may go once `abort` stands in the log, `indices` the seq of checkpoints."""

    orphans: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    abort: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()

    @property
    def free(self) -> tuple[str, ...]:
        """The prefixes of `remove` that the log lets go already."""
        return tuple(prefix for prefix in self.remove if prefix not in self.abort)


def decide(
    entries: Sequence[Entry], found: Sequence[str], indices: Sequence[int], now: datetime, grace: timedelta
) -> Decision:
    """`found`: the prefixes that have files; `indices`: the last seq of each index, the newest first."""
    state, gone = replay("", "", entries), aborted(entries)
    committed = {commit.prefix for commit in state.commits} | (
        {state.quarantined.prefix} if state.quarantined else set()
    )
    first_seen: dict[str, datetime] = {}
    deleted_at: dict[str, datetime] = {}
    for kind, known in ((Orphans, first_seen), (Delete, deleted_at)):
        for entry, event in events(entries, kind):
            for prefix in event.prefixes:
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
    """Housekeeping of one track. A `grace` of zero also collects files that others may still be writing or reading:
    their commits are then refused, and nothing is corrupted."""

    def __init__(self, track: Track, grace: timedelta) -> None:
        self.track, self.grace = track, grace

    def look(self) -> Decision:
        """The work to do. It only reads."""
        return self._look()[1]

    def collect(self) -> Decision:
        """Does the work, and returns it. Raises ConflictError if others commit all the time."""
        removed, indices = set[str](), set[int]()
        for attempt in range(TRIES):
            entries, decision = self._look()
            self._free(decision)
            removed, indices = removed | {*decision.free}, indices | {*decision.indices}
            try:
                self._write(entries, decision)
                break
            except ConflictError:
                if attempt == TRIES - 1:
                    raise
        keep_reserve(self.track.store)
        return replace(
            decision, remove=tuple(sorted(removed | {*decision.remove})), indices=tuple(sorted(indices, reverse=True))
        )

    def delete(self, version: int, why: str) -> Entry:
        """Deletes a version and all later ones, which build on it. Their files go a grace period later.

        Raises ConfigError if there is no such version or an alias names one of them.
        """
        entries = self._entries()
        doomed = self._doomed(entries, version)
        still = SameVersions(label=self.track.label, first=version, versions=frozenset(doomed), entries=tuple(entries))
        event = Delete(versions=tuple(sorted(doomed)), prefixes=tuple(doomed[each] for each in sorted(doomed)), why=why)
        return self._with_room(lambda: self.track.append(event, after=entries[-1], requires=still))

    def doomed(self, version: int) -> list[int]:
        """The versions that `delete` would delete. Errors are those of `delete`."""
        return sorted(self._doomed(self._entries(), version))

    def _entries(self) -> list[Entry]:
        """The log. Raises StoreError if a newer Orthoplex wrote to it: this one must not remove files that it names."""
        entries = self.track.entries()
        refuse_unknown(self.track.label, entries)
        return entries

    def _doomed(self, entries: Sequence[Entry], version: int) -> dict[int, str]:
        state = replay(self.track.team, self.track.name, entries)
        if version not in [commit.version for commit in state.standing]:
            raise ConfigError(f"--delete {self.track.label}@v{version}: no such version")
        named = {alias.name: alias.version for alias in aliases(entries).values() if alias.version >= version}
        if named:
            shown = ", ".join(f"{name} names v{number}" for name, number in named.items())
            raise ConfigError(f"--delete {self.track.label}@v{version}: {shown}; move that alias first")
        return {commit.version: commit.prefix for commit in state.standing if commit.version >= version}

    def _look(self) -> tuple[list[Entry], Decision]:
        found = [f"{self.track.version_root}/{name}" for name in self.track.store.list_folders(self.track.version_root)]
        entries = self._entries()  # after the listing: files committed meanwhile are no orphans
        now = datetime.now(UTC)
        return entries, decide(entries, found, self.track.indices(), now, self.grace)

    def _free(self, decision: Decision) -> None:
        """Removes what the log lets go already, which takes no room."""
        remove_prefixes(self.track.store, decision.free)
        for seq in decision.indices:
            self.track.store.delete(self.track.index_key(seq))

    def _write(self, entries: list[Entry], decision: Decision) -> None:
        """Takes the prefixes away that are due, then notes those that are new."""
        uncommitted = Uncommitted(self.track.label, frozenset((*decision.abort, *decision.orphans)))
        after = entries[-1] if entries else None

        def append(event: Abort | Orphans) -> Entry:
            return self._with_room(lambda: self.track.append(event, after=after, requires=uncommitted))

        for start in range(0, len(decision.abort), AT_ONCE):
            due = decision.abort[start : start + AT_ONCE]
            after = append(Abort(prefixes=due))
            remove_prefixes(self.track.store, due)
        if decision.orphans and self.grace:
            append(Orphans(prefixes=decision.orphans))

    def _with_room(self, write: Callable[[], Entry]) -> Entry:
        """What `write` appends; again, if the disk is full and something can be given up that nobody needs."""
        try:
            return write()
        except DiskFullError as error:
            if not self._give_up():
                raise DiskFullError(f"{error}. {FEW}") from None
            return write()

    def _give_up(self) -> bool:
        """Removes the reserve of a store, or the indices if there is none. Whether there was anything."""
        store, indices = self.track.store, self.track.indices()
        if isinstance(store, LocalStore) and store.give_up_reserve():
            return True
        for seq in indices:
            store.delete(self.track.index_key(seq))
        return bool(indices)


def remove_prefixes(store: Store, prefixes: Sequence[str]) -> None:
    """Removes every object below the prefixes, the manifest first, so that a half-removed version cannot be read."""
    keys = [key for prefix in prefixes for key in store.list(f"{prefix}/")]
    keys.sort(key=lambda key: not key.endswith(f"/{MANIFEST}"))
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(store.delete, keys))


def keep_reserve(store: Store) -> None:
    """Has a folder store set room aside again."""
    if isinstance(store, LocalStore):
        store.keep_reserve()


def sweep_temporary(store: Store, *, remove: bool) -> int:
    """Counts the files that killed writers left in a folder store over an hour ago. Removes them if told to."""
    if not isinstance(store, LocalStore) or not (folder := store.root / ".tmp").is_dir():
        return 0
    limit = time.time() - LEFT_BEHIND_S
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    old = [path for path in files if path.stat().st_mtime < limit]
    for path in old if remove else ():
        path.unlink(missing_ok=True)
    return len(old)
