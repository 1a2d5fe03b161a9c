"""Whether all that a track says of itself is so: chain, signatures, manifests, the digest of every file, the index."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.errors import KeyAbsentError, StoreError
from orchestrator.log import index
from orchestrator.log.entry import Entry, digest
from orchestrator.registry.aliases import MOVES, moves
from orchestrator.track.state import replay
from orchestrator.track.track import Track, aborted, manifest_files

CHECKERS = 8


@dataclass(frozen=True)
class Report:
    """What was read, and what is wrong: one line each, none where all is well."""

    track: str
    entries: int
    versions: int
    files: int
    bytes: int
    faults: list[str]


def verify(track: Track) -> Report:
    """Reads a whole track again, each file once. Raises StoreError only where the store cannot be reached."""
    try:
        entries = track.raw_entries()
    except StoreError as error:
        return Report(track.label, 0, 0, 0, 0, [str(error)])
    faults = [*_log_faults(entries), *_index_faults(track, entries)]
    state = replay(track.team, track.name, entries)
    kept = [commit for commit in state.commits if commit["version"] not in state.deleted]
    files: list[tuple[str, Any]] = []
    for commit in kept:
        try:
            manifest = track.read_manifest(commit["prefix"], commit["manifest_sha256"])
        except StoreError as error:
            faults.append(f"v{commit['version']}: {error}")
            continue
        files += [(f"{commit['prefix']}/{path}", record) for path, record in manifest_files(manifest).items()]
    with TemporaryDirectory() as folder, ThreadPoolExecutor(CHECKERS) as pool:
        check: Callable[[Any], str | None] = lambda item: _file_fault(track, Path(folder), *item)  # noqa: E731
        faults += [fault for fault in pool.map(check, files) if fault]
    return Report(track.label, len(entries), len(kept), len(files), sum(record.size for _, record in files), faults)


def _file_fault(track: Track, folder: Path, key: str, record: Any) -> str | None:
    path = folder / digest(key.encode())
    try:
        found = track.store.download(key, path)
        same = (found.size, found.sha256) == (record.size, record.sha256)
        return None if same else f"{key}: differs from its manifest (sha256 {record.sha256}); it was changed"
    except KeyAbsentError:
        return f"{key}: is missing; restore it from a backup"
    finally:
        path.unlink(missing_ok=True)


def _log_faults(entries: list[Entry]) -> Iterator[str]:
    """Entries that a writer who keeps to the rules could not have written."""
    counted, taken = {move.seq for move in moves(entries)}, set[str]()
    for entry in entries:
        if entry.op in MOVES and entry.seq not in counted:
            yield f"entry {entry.seq} ({entry.op}, {entry.actor}): moves an alias from where it was not; does not count"
        taken |= aborted([entry])
        if entry.op == "commit" and entry.body.get("prefix") in taken:
            yield f"entry {entry.seq} (commit, {entry.actor}): names files that gc had taken; it does not count"


def _index_faults(track: Track, entries: list[Entry]) -> Iterator[str]:
    """Indices that the log names and that do not say what it says. One that is gone is no fault."""
    for entry in entries:
        if entry.op != "index":
            continue
        upto = entry.body.get("upto")
        if not (type(upto) is int and 0 < upto < entry.seq):
            yield f"entry {entry.seq} (index, {entry.actor}): says of no entries that it is their index"
            continue
        try:
            data = track.store.get(track.index_key(upto))
        except KeyAbsentError:
            continue
        if digest(data) != entry.body.get("index_sha256"):
            yield f"{track.index_key(upto)}: was changed; remove it, the log has all it holds"
        elif data != index.encode(entries[:upto]):
            yield f"{track.index_key(upto)}: does not say what the log says; remove it"
