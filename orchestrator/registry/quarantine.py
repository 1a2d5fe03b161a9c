"""Versions that guards stopped before they were committed: what there is of them, and how they are given up."""

from collections.abc import Callable, Iterator
from typing import TypedDict

from cluster.storage import Store
from orchestrator.log.decision import stops
from orchestrator.log.entry import JsonLike
from orchestrator.track.aside import Abort
from orchestrator.track.events import refuse_unknown, skipped
from orchestrator.track.layout import list_tracks
from orchestrator.track.requirements import Uncommitted
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track


class Held(TypedDict):
    """What is quarantined, in the form that `adapters list --quarantined --json` prints. `version` is the number that
    it would have, `reasons` are the bounds that it breaks, `decisions` all that were judged, as `status --json` has
    them."""

    name: str
    version: int
    task: str
    reasons: list[str]
    decisions: list[JsonLike]
    active_parameters: int | None
    stored_bytes: int
    location: str
    manifest_sha256: str
    quarantined_at: str


def held(
    store: Store, team: str | None = None, task: str | None = None, note: Callable[[str], None] = lambda _: None
) -> Iterator[Held]:
    """What is quarantined in every track, or in those of a team; of all tasks, or of one. `note` is told which entries
    of a track are left out."""
    for names in list_tracks(store, team):
        track = Track(store, *names)
        entries = track.entries()
        if left_out := skipped(entries):
            note(f"{track.label}: {left_out}")
        found = held_by(replay(*names, entries))
        if found and task in (None, found["task"]):
            yield found


def held_by(state: RunState) -> Held | None:
    """What is quarantined in a run."""
    held = state.quarantined
    if held is None:
        return None
    judged = [
        each for each in state.decisions if each.decision.subject == f"v{held.version}" and each.entry.seq >= held.seq
    ]
    latest = {each.decision.rule: each for each in judged}.values()
    return {
        "name": state.label,
        "version": held.version,
        "task": held.task,
        "reasons": stops(each.decision for each in latest),
        "decisions": [each.shown() for each in latest],
        "active_parameters": held.active_parameters,
        "stored_bytes": held.stored_bytes,
        "location": held.prefix,
        "manifest_sha256": held.manifest_sha256,
        "quarantined_at": held.time,
    }


def discard(track: Track) -> str | None:
    """Gives up what is quarantined: its files are collected, and the task may be trained anew. Returns their prefix;
    None if there is nothing.

    Raises:
        ConflictError: it was committed meanwhile. StoreError: a newer Orthoplex wrote to the log.
    """
    entries = track.entries()
    refuse_unknown(track.label, entries)
    held = replay(track.team, track.name, entries).quarantined
    if held is None:
        return None
    unclaimed = Uncommitted(track.label, frozenset({held.prefix}))
    track.append(Abort(prefixes=(held.prefix,)), after=entries[-1], requires=unclaimed)
    return held.prefix
