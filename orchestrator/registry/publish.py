"""Publishes a version to a track. Many may publish at once: each gets the next number, and none is lost."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.storage import upload_files
from orchestrator.log.entry import Entry, JsonLike
from orchestrator.log.event import Anything
from orchestrator.track.events import Commit, Learned
from orchestrator.track.state import replay
from orchestrator.track.track import Track


def publish(track: Track, directory: Path, learned: Learned, metadata: Mapping[str, JsonLike]) -> Entry:
    """Uploads the files below `directory` and commits them as the track's next version; returns its log entry.

    The entry is the `Commit` of `learned`, which holds at least the name of its task. The manifest holds `metadata`.
    The version is not visible before the entry stands. If publishing is cut, gc removes the files that it left. Do not
    publish to a track that a run drives: a driver must be alone.
    """
    prefix = track.fresh_prefix()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(track.catch_up)  # while the files are on their way
        records = upload_files(track.store, prefix, directory)
        sha256 = track.write_manifest(prefix, dict(metadata), records)
        entries = reading.result()
    size = sum(record.size for record in records)

    def numbered(since: Sequence[Entry]) -> Commit:
        number = replay(track.team, track.name, [*entries, *since]).learned + 1
        return Commit.placed(learned, version=number, prefix=prefix, manifest_sha256=sha256, stored_bytes=size)

    return track.append(numbered, after=entries[-1] if entries else None, requires=Anything())
