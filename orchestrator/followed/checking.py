"""Whether an archive of evidence holds: offline, by the checks that `adapters verify` makes in a store.

Every file against contents.json; the chains of log, rules and recorded scores, and the signatures that the rules ask
for; manifests against the log, files against manifests; and that nothing is in it that none of them vouches for. Of
files that are left out the digest stands in their manifest.

Rules come with the archive, so that whoever makes one up could make up its rules. Keys that a reader names settle that:
the newest rules must be signed by one of them, and then vouch for all keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import ConfigError, IntegrityError, StoreError
from orchestrator.followed.archive import STORE, Archive, PackedStore, opened
from orchestrator.followed.evidence import KIND, entry_keys, files_of, head_of, place_of
from orchestrator.followed.records import RecordLog, records_of, verify_records
from orchestrator.log import signing
from orchestrator.log.entry import JsonLike, canonical, digest
from orchestrator.log.seen import unremembered
from orchestrator.log.signing import PublicKey
from orchestrator.registry.verify import Report, verify
from orchestrator.track.rules import RulesLog
from orchestrator.track.track import Track
from trainers.data.row_scores import ROWS

SIGNATURE = "signature"
BESIDE = ("README.txt", "report.html")  # files that no log vouches for: the seal alone does


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What an archive holds and whether it holds. `heads` are the newest entries by log, `named` files that manifests
    name and the archive leaves out, `sealed_by` the owner of the key that signed contents.json."""

    path: str
    run: str
    sha256: str
    files: int
    bytes: int
    named: int
    heads: JsonLike
    signed: bool
    sealed_by: str | None
    reports: Sequence[Report]
    faults: Sequence[str]
    notes: Sequence[str] = field(default_factory=list)


def check(path: Path, keys: Sequence[Path] = ()) -> Checked:
    """Checks an archive; `keys` are public keys (PEM) of which the reader trusts each.

    Raises:
        ConfigError: the file or a key cannot be read. IntegrityError: the file is no archive of evidence.
    """
    trusted = trusted_keys(keys)
    with opened(path) as archive, unremembered():
        track = track_of(archive)
        faults = [*archive.faults()]
        if faults:  # what is in it says nothing any more
            return told(archive, track, faults)
        return judged(archive, track, trusted)


def judged(archive: Archive, track: Track, trusted: Mapping[str, PublicKey]) -> Checked:
    """What the logs say of an archive whose files are those of contents.json."""
    store, records, faults, notes = track.store, records_of(track), list[str](), list[str]()
    assert isinstance(store, PackedStore)
    try:
        rules = RulesLog(store, track.team)
        trust, revisions = rules.trust, rules.entries()
        reports = [verify(track, frozenset(store.keys)), verify_records(records)]
        reports = [each for each in reports if each.entries or each.faults or each.track == track.label]
        faults += [fault for report in reports for fault in report.faults]
        notes += [note for report in reports for note in report.notes]
        if not faults:
            faults += [*other_heads(archive, track, rules, records), *strays(track, rules, records)]
    except StoreError as error:
        return told(archive, track, [*faults, str(error)], notes=notes)
    keys = {**trust.keys, **trusted}
    seal = seal_of(archive)
    sealed_by = signing.signer(seal, place_of(archive.contents), unsealed(archive), keys)
    if seal and not sealed_by:
        faults.append("contents.json: its signature is of no key that the rules list, or does not match")
    if trusted:
        newest = revisions[-1] if revisions else None
        if newest is None or signing.signer(newest.signature, rules.label, newest.unsigned, trusted) is None:
            faults.append("the team's rules are not signed by a key that --key names")
        if not trust.required:
            faults.append("the team's rules ask for no signatures, so that no key vouches for the log")
        if not seal:
            faults.append("contents.json is not signed, so that no key vouches for what is in it beside the logs")
    elif trust.required:
        notes.append("rules came with the archive; --key PEM, an admin's public key, settles that they are the team's")
    return told(archive, track, faults, reports=reports, notes=notes, sealed_by=sealed_by)


def told(
    archive: Archive,
    track: Track,
    faults: Sequence[str],
    *,
    reports: Sequence[Report] = (),
    notes: Sequence[str] = (),
    sealed_by: PublicKey | None = None,
) -> Checked:
    """The result."""
    held = {name.removeprefix(STORE) for name in archive.files}
    named = [] if faults else [key for key, _ in files_of(track, track.entries()) if key not in held]
    return Checked(
        path=str(archive.path), run=track.label, sha256=archive.sha256, files=len(archive.files),
        bytes=sum(record.size for record in archive.files.values()), named=len(named),
        heads=archive.contents.get("heads"), signed=not faults and track.trust.required,
        sealed_by=sealed_by.owner if sealed_by else None, reports=reports, faults=faults, notes=notes,
    )  # fmt: skip


def track_of(archive: Archive) -> Track:
    """The run that an archive is of. Raises IntegrityError if it does not say so."""
    contents = archive.contents
    try:
        if contents.get("kind") != KIND:
            raise ConfigError("kind: is no evidence of a run")
        return Track(PackedStore(archive), str(contents.get("team")), str(contents.get("name")))
    except ConfigError as error:
        raise IntegrityError(f"{archive.path}: contents.json: {error}") from None


def strays(track: Track, rules: RulesLog, records: RecordLog) -> Iterator[str]:
    """Files below store/ that neither log, nor manifest, nor record vouches for, and other files that none needs."""
    store = track.store
    assert isinstance(store, PackedStore)
    entries = track.entries()
    vouched = {key for log in (track, rules, records) for key in entry_keys(log, log.entries())}
    vouched |= {key for key, _ in files_of(track, entries)}
    vouched |= {f"{record.prefix}/{ROWS}" for _, record in records.records()}
    for name in store.archive.files:
        held = name.startswith(STORE) and name.removeprefix(STORE) in vouched
        if not held and name not in BESIDE:
            yield f"{name}: nothing in the log vouches for it"


def other_heads(archive: Archive, *logs: Track | RulesLog | RecordLog) -> Iterator[str]:
    """Logs whose newest entry is another than contents.json says."""
    found = {log.label: head_of(entries) for log in logs if (entries := log.entries())}
    if found != archive.contents.get("heads"):
        yield "contents.json: `heads` are not the newest entries of the logs"


def seal_of(archive: Archive) -> Mapping[str, str] | None:
    """The signature of contents.json, None if there is none. Raises IntegrityError if it is malformed."""
    found = archive.contents.get(SIGNATURE)
    if found is None:
        return None
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise IntegrityError(f"{archive.path}: contents.json: {SIGNATURE}: is malformed")
    return {key: str(value) for key, value in found.items()}


def unsealed(archive: Archive) -> str:
    """The digest that the signature was made over."""
    return digest(canonical({key: value for key, value in archive.contents.items() if key != SIGNATURE}))


def trusted_keys(paths: Sequence[Path]) -> dict[str, PublicKey]:
    """Public keys in files, by id. Raises ConfigError if one cannot be read, or is no such key."""
    found = {}
    for path in paths:
        try:
            raw = signing.public_key(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"--key {path}: cannot be read: {error.strerror}; name a PEM file") from None
        except ValueError as error:
            raise ConfigError(f"--key {path}: {error}") from None
        found[signing.key_id(raw)] = PublicKey(raw, path.name, frozenset())
    return found
