"""Evidence of a run in one archive: its log, the rules it was judged by, recorded scores, manifests, and the files of
its versions but for weights and kept answers.

Entries and manifests are the store's own bytes, under the store's own keys, so that what `adapters verify` checks in a
store is checked here too, offline. What is left out is named by its digest.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.errors import IntegrityError
from cluster.storage import FileRecord
from cluster.temporary import temporary
from orchestrator.followed.archive import STORE, Told, write_archive
from orchestrator.followed.records import RecordLog, records_of
from orchestrator.log import signing
from orchestrator.log.chain import READERS, Log, log_start
from orchestrator.log.entry import Entry, canonical, digest
from orchestrator.track.layout import manifest_key
from orchestrator.track.rules import RulesLog
from orchestrator.track.state import replay
from orchestrator.track.track import Track, manifest_files
from trainers.data.answers import ANSWERS
from trainers.data.row_scores import ROWS

KIND = "evidence of an Orthoplex run"
WEIGHTS = ".safetensors"
README = """Evidence of a run of Orthoplex.

contents.json lists every file with its size and sha256. Below store/ stand objects of the run's store as they are:
entries of its log (log/), of its team's rules (.policy) and of scores recorded later (.records), each with the digest
of the one before; manifests, whose digests stand in the log; and files, whose digests stand in the manifests.

    orthoplex verify FILE                checks all of it, without the store and without a network
    orthoplex verify FILE --key PEM      also that the rules are signed by this public key
    sha256sum FILE_IN_ARCHIVE            is what contents.json says
"""


def pack(track: Track, output: Path, *, adapters: bool, answers: bool, beside: Mapping[str, bytes]) -> str:
    """Writes the archive; returns the sha256 of its contents.json. The same log gives the same bytes. `adapters` and
    `answers` take weights and kept answers in, `beside` are further files by their paths in the archive.

    Raises:
        IntegrityError: the log, or a file, was changed. ConfigError: the archive cannot be written.
    """
    rules, records = RulesLog(track.store, track.team), records_of(track)
    read = {log: log.entries() for log in (track, rules, records)}
    wanted: dict[str, FileRecord | None] = {
        key: None for log, entries in read.items() for key in entry_keys(log, entries)
    }
    wanted |= {key: record for key, record in files_of(track, read[track]) if taken(key, adapters, answers)}
    wanted |= row_files(records)
    told: Told = {
        "kind": KIND, "team": track.team, "name": track.name,
        "heads": {log.label: head_of(entries) for log, entries in read.items() if entries},
    }  # fmt: skip
    with temporary("evidence") as folder, ThreadPoolExecutor(READERS) as pool:

        def fetch(numbered: tuple[int, tuple[str, FileRecord | None]]) -> tuple[str, Path]:
            number, (key, record) = numbered
            path = Path(folder) / str(number)
            found = track.store.download(key, path)
            if record:
                record.check(key, *found)
            return f"{STORE}{key}", path

        files: dict[str, bytes | Path] = dict(pool.map(fetch, enumerate(wanted.items())))
        return write_archive(output, {**files, **beside, "README.txt": README.encode()}, told, sealed)


def entry_keys(log: Log, entries: list[Entry]) -> list[str]:
    """The keys of these entries, which are all of a log, or its oldest ones if it grows."""
    keys = log.store.list(log_start(log.root))
    return keys[len(keys) - len(entries) :]  # the newest come first


def files_of(track: Track, entries: list[Entry]) -> Iterator[tuple[str, FileRecord | None]]:
    """Manifests of all versions that stand, and of what is quarantined, and the files that they list, by key."""
    state = replay(track.team, track.name, entries)
    for commit in (*state.standing, *filter(None, [state.quarantined])):
        yield manifest_key(commit.prefix), None
        for path, record in manifest_files(track.manifest_of(commit)).items():
            yield f"{commit.prefix}/{path}", record


def taken(key: str, adapters: bool, answers: bool) -> bool:
    """Whether a file of a version goes into an archive."""
    if key.endswith(WEIGHTS):
        return adapters
    return answers or not key.endswith(f"/{ANSWERS}")


def row_files(records: RecordLog) -> dict[str, FileRecord | None]:
    """The row scores of recorded scores, by key."""
    found = (record for _, record in records.records())
    return {f"{each.prefix}/{ROWS}": None for each in found if records.scores(each)}


def head_of(entries: list[Entry]) -> dict[str, int | str]:
    """The newest entry, by number and digest."""
    return {"seq": entries[-1].seq, "sha256": entries[-1].sha256}


def sealed(contents: Told) -> Told:
    """The signature over contents.json, if this machine signs."""
    signature = signing.sign(place_of(contents), digest(canonical(contents)))
    return {"signature": signature} if signature else {}


def place_of(contents: Told) -> str:
    """What a signature over contents.json is bound to. No log has this label."""
    return f"evidence of {contents.get('team')}/{contents.get('name')}"


def refuse_faulty(output: Path, faults: Iterable[str]) -> None:
    """Removes an archive that does not stand its own check. Raises IntegrityError if it has faults."""
    if found := [*faults]:
        output.unlink(missing_ok=True)
        raise IntegrityError(
            "\n  ".join([f"{output}: was not written: {len(found)} fault{'s' * (len(found) != 1)} found", *found])
        )
