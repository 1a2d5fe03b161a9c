"""`orthoplex.Registry`: the adapters in a store."""

import warnings
from pathlib import Path

from cluster.storage import open_store
from orchestrator.delivery.load import store_uri, warn_of_skipped
from orchestrator.log.entry import Entry
from orchestrator.registry import aliases
from orchestrator.registry.catalog import listed
from orchestrator.registry.pull import pull
from orchestrator.registry.references import Version, find_track, resolve
from orchestrator.registry.verify import Report, verify
from orthoplex.shown import Listing


class Registry:
    """A store's adapters, by references as commands take them: team/run@v3, team/run@production."""

    def __init__(self, store: str | None = None) -> None:
        """`store` is a folder or s3://bucket/prefix. Default: $ORTHOPLEX_STORE, else .orthoplex/store."""
        self.store = open_store(store_uri(store))

    def list(self, team: str | None = None, task: str | None = None) -> Listing:
        """All adapters, or those of a team or trained on a task, as `adapters list --json` prints them."""
        return Listing(listed(self.store, team, task, warnings.warn))

    def find(self, reference: str, at: str | None = None) -> Version:
        """The version that a reference names, or named `at` a time. Raises ConfigError if there is none."""
        found = resolve(self.store, reference, at)
        warn_of_skipped(found.track.label, found.entries)
        return found

    def promote(
        self, reference: str, alias: str, *, expect: int | None = None, why: str = "", override: bool = False
    ) -> Entry:
        """Points an alias at a version, within the team's bounds, or setting them aside. Raises as
        `orchestrator.registry.aliases.promote`."""
        found = self.find(reference)
        return aliases.promote(found.track, found.commit.version, alias, expect=expect, why=why, override=override)

    def rollback(
        self, run: str, alias: str, *, expect: int | None = None, why: str = "", override: bool = False
    ) -> Entry:
        """Points an alias at the version before, unless that is rejected; or setting that aside. Raises as
        `orchestrator.registry.aliases.rollback`."""
        return aliases.rollback(find_track(self.store, run), alias, expect=expect, why=why, override=override)

    def pull(self, reference: str, directory: Path | str) -> int:
        """Copies a version's files into a folder that is new or empty, every digest checked; returns their size in
        bytes."""
        found = self.find(reference)
        return pull(found.track, {"": found.commit}, Path(directory))

    def verify(self, run: str) -> Report:
        """Reads a run again: chain, signatures, manifests, the digest of every file."""
        return verify(find_track(self.store, run))
