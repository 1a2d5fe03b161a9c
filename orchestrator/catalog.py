"""What stands in a track, as people and other programs are shown it. Pure functions of its log."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.aliases import Alias, aliases
from orchestrator.entries import Entry

SHOWN = ("task", "active_parameters", "stored_bytes", "overlap")


def rows(label: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Every committed version that was not deleted, as `adapters list --json` shows it; `label` is team/track.

    Takes brief entries too. `aliases` are the names that point there, `alias_revisions` the entries that moved them.
    """
    named: dict[int, list[Alias]] = {}
    for alias in aliases(entries).values():
        named.setdefault(alias.version, []).append(alias)
    return [_row(label, commit, time, named.get(commit["version"], [])) for commit, time in standing(entries)]


def standing(entries: Sequence[Entry]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The body and time of each commit that counts and whose version was not deleted."""
    gone = {version for entry in entries if entry.op == "delete" for version in entry.body["versions"]}
    taken = set[str]()
    for entry in entries:
        if entry.op == "abort":
            taken.update(entry.body["prefixes"])
        elif entry.op == "commit" and entry.body["version"] not in gone and entry.body["prefix"] not in taken:
            yield entry.body, entry.time


def _row(label: str, commit: Mapping[str, Any], time: str, named: Sequence[Alias]) -> dict[str, Any]:
    return {
        "ref": f"{label}@v{commit['version']}",
        "name": label,
        "version": commit["version"],
        "aliases": [alias.name for alias in named],
        "alias_revisions": {alias.name: alias.seq for alias in named},
        **{key: commit.get(key) for key in SHOWN},
        "location": commit["prefix"],
        "committed_at": time,
    }
