"""Logs with entries in them, and the files that hold these."""

from pathlib import Path

from orchestrator.log.entry import Entry
from orchestrator.track.track import Track
from tests.support.entries import COMMIT, Raw


def fill(track: Track, count: int) -> list[Entry]:
    head, entries = track.head(), []
    for number in range(count):
        body = {**COMMIT, "version": number + 1, "task": f"täsk {number}", "score": number / 7}
        head = track.append(Raw("commit", body), after=head)
        entries.append(head)
    return entries


def file_of(track: Track, seq: int) -> Path:
    return Path(track.store.uri) / f"t/team/stream/log/{10**9 - seq:010d}.json"
