"""What stands in tracks, as people and other programs are shown it. All but `listed` are pure functions of a log."""

from collections.abc import Iterator, Sequence
from typing import Any

from cluster.storage import Store
from orchestrator.log.entry import Entry
from orchestrator.log.index import COMMIT, Indexed
from orchestrator.registry.aliases import Alias, aliases
from orchestrator.track.track import Track, list_tracks

Commit = tuple[Any, ...]
VERSION, PREFIX = (2 + list(COMMIT).index(name) for name in ("version", "prefix"))


def listed(store: Store, team: str | None = None, task: str | None = None) -> Iterator[dict[str, Any]]:
    """`rows` of every track, or of those of a team; of all adapters, or of those trained on a task."""
    for names in list_tracks(store, team):
        track = Track(store, *names)
        yield from rows(track.label, *track.brief(), task)


def rows(label: str, below: Indexed, above: Sequence[Entry], task: str | None = None) -> Iterator[dict[str, Any]]:
    """Every committed version that was not deleted (trained on `task`), as `adapters list --json` shows it.

    `label` is team/track; `below` and `above` are `Log.brief`. `aliases` are the names that point to a version,
    `alias_revisions` the entries that moved them. One at a time: 100,000 kept at once take three times as long, most of
    it in Python's garbage collector.
    """
    entries = [*below.entries, *above]
    named: dict[int, list[Alias]] = {}
    for alias in aliases(entries).values():
        named.setdefault(alias.version, []).append(alias)
    commits = [*below.commits, *(_commit(entry) for entry in above if entry.op == "commit")]
    for _, time, version, learned, parameters, size, overlap, prefix in standing(commits, entries):
        if task is None or learned == task:
            yield {
                "ref": f"{label}@v{version}",
                "name": label,
                "version": version,
                "aliases": [alias.name for alias in named.get(version, ())],
                "alias_revisions": {alias.name: alias.seq for alias in named.get(version, ())},
                "task": learned,
                "active_parameters": parameters,
                "stored_bytes": size,
                "overlap": overlap,
                "location": prefix,
                "committed_at": time,
            }


def rows_of(label: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """`rows` of a whole log."""
    return [*rows(label, Indexed(), entries)]


def standing(commits: Sequence[Commit], entries: Sequence[Entry]) -> Iterator[Commit]:
    """The commits that count, whose files no earlier `abort` names, and whose versions were not deleted."""
    gone = {version for entry in entries if entry.op == "delete" for version in entry.body["versions"]}
    taken: dict[str, int] = {}
    for entry in entries:
        for prefix in entry.body["prefixes"] if entry.op == "abort" else ():
            taken.setdefault(prefix, entry.seq)
    for commit in commits:
        if commit[VERSION] not in gone and taken.get(commit[PREFIX], commit[0]) >= commit[0]:
            yield commit


def _commit(entry: Entry) -> Commit:
    return (entry.seq, entry.time, *(entry.body.get(name) for name in COMMIT))
