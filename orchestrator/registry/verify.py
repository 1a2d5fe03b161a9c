"""Verifies everything that a track vouches for: chain, signatures, manifests, the digest of every file, the index."""

from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster.errors import IntegrityError, KeyAbsentError, StoreError
from cluster.storage import FileRecord
from cluster.temporary import temporary
from orchestrator.log import index
from orchestrator.log.chain import MOST_INDEX_BYTES, Log
from orchestrator.log.entry import Entry, digest
from orchestrator.log.event import Index, parse, well_formed
from orchestrator.track.aside import MOVES, Abort
from orchestrator.track.events import Commit, skipped
from orchestrator.track.moves import moves
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track, manifest_files
from trainers.training.decisions import DECISIONS

CHECKERS = 8
MOVE_OPS = frozenset(kind.op for kind in MOVES)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Counts of what was read, and one line per fault. `notes` names the entries that could not be judged."""

    track: str
    entries: int = 0
    versions: int = 0
    files: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(track: Track, held: Container[str] | None = None) -> Report:
    """Reads a whole track again, each file once. `held` are the keys of files that are there, if not all are: others
    are not looked for. Raises StoreError only if the store cannot be reached."""
    try:
        entries = track.raw_entries()
        state = replay(track.team, track.name, entries)
        faults = [*_log_faults(entries), *index_faults(track, entries)]
    except StoreError as error:
        return Report(track=track.label, faults=[str(error)])
    files = list[tuple[str, FileRecord]]()
    faults += _manifest_faults(track, state, files)
    files = [file for file in files if held is None or file[0] in held]
    with temporary("verify") as folder, ThreadPoolExecutor(CHECKERS) as pool:
        faults += filter(None, pool.map(partial(_file_fault, track, Path(folder)), files))
    left_out = skipped(entries)
    return Report(
        track=track.label, entries=len(entries), versions=len(state.standing), files=len(files),
        bytes=sum(record.size for _, record in files), faults=faults,
        notes=[f"{track.label}: {left_out}"] if left_out else [],
    )  # fmt: skip


def _manifest_faults(track: Track, state: RunState, files: list[tuple[str, FileRecord]]) -> Iterator[str]:
    """The faults of the manifests. Adds the files that the sound ones list, by key."""
    for commit in (*state.standing, *filter(None, [state.quarantined])):
        try:
            listed = manifest_files(track.manifest_of(commit))
        except StoreError as error:
            yield f"v{commit.version}: {error}"
        else:
            files += [(f"{commit.prefix}/{path}", record) for path, record in listed.items()]
            if commit.decisions_sha256 and commit.decisions_sha256 != _sha256(listed.get(DECISIONS)):
                yield f"v{commit.version}: its manifest lists no {DECISIONS} with the digest that its commit names"


def _sha256(record: FileRecord | None) -> str | None:
    return record.sha256 if record else None


def _file_fault(track: Track, folder: Path, file: tuple[str, FileRecord]) -> str | None:
    key, record = file
    path = folder / digest(key.encode())
    try:
        record.check(key, *track.store.download(key, path, record.size))
    except IntegrityError as error:
        return str(error)
    except KeyAbsentError:
        return f"{key}: is missing; restore it from a backup"
    finally:
        path.unlink(missing_ok=True)
    return None


def _log_faults(entries: list[Entry]) -> Iterator[str]:
    """Entries that no writer who keeps to the rules could have written."""
    counted, taken = {move.seq for move in moves(entries)}, set[str]()
    for entry in entries:
        if entry.op in MOVE_OPS and entry.seq not in counted:
            yield f"entry {entry.seq} ({entry.op}, {entry.actor}): moves an alias from where it was not; does not count"
        elif entry.op == Abort.op:
            taken.update(parse(entry, Abort).prefixes)
        elif entry.op == Commit.op and parse(entry, Commit).prefix in taken:
            yield f"entry {entry.seq} (commit, {entry.actor}): names files that gc had collected; it does not count"


def index_faults(track: Log, entries: list[Entry]) -> Iterator[str]:
    """Indices that the log names but whose content differs from it. A removed index is no fault."""
    whole = {entry.seq: named for entry, named in well_formed(entries, Index)}
    for entry in entries:
        if entry.op != Index.op:
            continue
        named = whole.get(entry.seq)
        if named is None or not 0 < named.upto < entry.seq:
            yield f"entry {entry.seq} (index, {entry.actor}): does not say which entries it is an index of"
            continue
        key = track.index_key(named.upto)
        try:
            data = track.store.get(key, MOST_INDEX_BYTES)
        except KeyAbsentError:
            continue
        except IntegrityError as error:
            yield str(error)
            continue
        if digest(data) != named.index_sha256:
            yield f"{key}: was changed; remove it, the log has all it holds"
        elif data != index.encode(entries[: named.upto], track.columns):
            yield f"{key}: differs from the log; remove it"
