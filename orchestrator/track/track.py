"""The versions of a track. A *track* is one team's stream over one base model, in a store, see `layout`.

A version that no entry names does not exist.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from cluster.errors import ConfigError, IntegrityError, KeyAbsentError, StoreError
from cluster.storage import FileRecord, Store, is_key
from orchestrator.log.chain import Log, Says
from orchestrator.log.entry import NAME, SHA256, Entry, JsonLike, canonical, digest
from orchestrator.log.event import Part, Requirement, shown, told
from orchestrator.log.index import Columns
from orchestrator.track import layout
from orchestrator.track.aside import HOUSEKEEPING, Delete
from orchestrator.track.events import KINDS, Commit, Placed
from orchestrator.track.layout import MANIFEST, list_tracks
from orchestrator.track.requirements import All, NoOtherDriver, NotCollected, aborted
from orchestrator.track.rules import TeamLog, TeamRules, Unsigned, forget_trust

FORMAT_VERSION = 1
MOST_MANIFEST_BYTES = 64 << 20  # those that are written have kilobytes
_OF_A_COMMIT = {
    "version": "int32", "task": "string", "active_parameters": "int64", "stored_bytes": "int64", "overlap": "float64",
    "prefix": "string",
}  # fmt: skip
COLUMNS = Columns(
    values={**_OF_A_COMMIT, "alias": "string", "expect": "int32", "why": "string"},
    lists={"prefixes": "string", "versions": "int32"},
    listing={"prefixes": frozenset(HOUSEKEEPING), "versions": frozenset({Delete.op})},
    op=Commit.op,
    of_row=tuple(_OF_A_COMMIT),
    needed=("version", "task", "stored_bytes", "prefix"),
)


class Track(TeamLog):
    """The log of `team`/`name`, and its versions below `version_root`. Raises ConfigError if no NAME matches."""

    columns = COLUMNS
    kinds = KINDS

    def __init__(self, store: Store, team: str, name: str) -> None:
        for key, value in (("team", team), ("name", name)):
            if not NAME.fullmatch(value):
                raise ConfigError(f"{key}: {value!r} is no name; use a-z 0-9, then also . _ -, at most 100 characters")
        super().__init__(store, layout.track_root(team, name), team, name)
        self.name = name
        self.version_root = layout.version_root(self.root)
        self.checkpoint_key = layout.checkpoint_key(self.root)
        self._known: list[Entry] = []

    def fresh_prefix(self) -> str:
        """A key prefix for a new version: version_root/<uuid4 hex>."""
        return f"{self.version_root}/{uuid.uuid4().hex}"

    def entries(self) -> list[Entry]:
        """See Log."""
        self._known = super().entries()
        return [*self._known]

    def catch_up(self) -> list[Entry]:
        """See Log. Entries that this object has read or written already are not read again: two requests and one for
        each new entry."""
        if not self._known:
            return self.entries()
        self._known = [*self._known, *self.since(self._known[-1])]
        return [*self._known]

    def append(self, says: Says, *, after: Entry | None, requires: Requirement | None = None) -> Entry:
        """See Log. By default no other driver may have written. A commit whose files the garbage collector took for
        left over is refused: they may be gone. What the team's rules ask is read first: readers would refuse the whole
        log for an entry that they do not allow."""
        forget_trust(self.store)
        requires = requires or NoOtherDriver(self.label)
        first = says([]) if callable(says) else says
        if isinstance(first, Commit):
            if after and after.seq > len(self._known):
                self._known = [*self._known, *self.since(self._known[-1] if self._known else None)]
            requires = All((requires, NotCollected(self.label, first.prefix, aborted(self._known))))
        entry = super().append(says, after=after, requires=requires)
        if self._known and self._known[-1].seq + 1 == entry.seq:
            self._known.append(entry)
        return entry

    def write_manifest(self, prefix: str, metadata: Mapping[str, JsonLike], files: list[FileRecord]) -> str:
        """Writes `prefix`/manifest.json: {"format_version", "files", **metadata}; returns the sha256 of its bytes.

        Raises ValueError if `metadata` holds one of the two names, NaN or infinity, IntegrityError if readers would
        find it malformed.
        """
        content: dict[str, JsonLike] = {"format_version": FORMAT_VERSION, "files": [asdict(record) for record in files]}
        if clash := sorted(content.keys() & metadata.keys()):
            raise ValueError(f"manifest of {prefix}: the metadata may not hold {', '.join(clash)}")
        data = canonical({**metadata, **content})
        parse_manifest(data, f"manifest of {prefix}")
        self.store.put(layout.manifest_key(prefix), data)
        return digest(data)

    def read_manifest(self, prefix: str, sha256: str) -> dict[str, Any]:
        """The manifest of a version, whose digest a log entry holds.

        Raises IntegrityError if it is missing, has another digest or is malformed, StoreError if it is too new.
        """
        if not (is_key(prefix) and prefix.startswith(f"{self.version_root}/")):
            raise IntegrityError(f"{self.label}: the version's place {prefix!r} is not in the track; do not use it")
        data = self._get(layout.manifest_key(prefix), MOST_MANIFEST_BYTES)
        if digest(data) != sha256:
            raise IntegrityError(f"{prefix}/{MANIFEST}: was changed; its sha256 is {digest(data)}, not {sha256}")
        return parse_manifest(data, layout.manifest_key(prefix))

    def manifest_of(self, commit: Placed) -> dict[str, Any]:
        """The manifest of a version; errors as of `read_manifest`."""
        return self.read_manifest(commit.prefix, commit.manifest_sha256)

    def committed(self, commit: Placed, *paths: str) -> tuple[bytes, ...]:
        """Files of a version, checked against its manifest; errors as of `read_manifest` and `read_file`."""
        manifest = self.manifest_of(commit)
        return tuple(self.read_file(commit.prefix, manifest, path) for path in paths)

    def read_file(self, prefix: str, manifest: Mapping[str, Any], path: str) -> bytes:
        """One file of a version. Raises KeyAbsentError if the manifest does not list it, IntegrityError if it is
        missing or differs from the manifest."""
        record = manifest_files(manifest).get(path)
        if record is None:
            raise KeyAbsentError(f"{prefix}: its manifest lists no file {path!r}")
        data = self._get(f"{prefix}/{path}", record.size)
        record.check(f"{prefix}/{path}", len(data), digest(data))
        return data

    def _get(self, key: str, most: int) -> bytes:
        try:
            return self.store.get(key, most)
        except KeyAbsentError:
            raise IntegrityError(f"store {self.store.uri}: {key} is missing; restore it from a backup") from None


def trusting_what_is_there(store: Store, team: str, before: TeamRules, rules: TeamRules) -> TeamRules:
    """The rules. If they are the first to ask for signatures, they vouch for all entries so far of the team."""
    if rules.signatures in (before.signatures, "off"):
        return rules
    logs: list[Log] = [Track(store, team, name) for _, name in list_tracks(store, team)]
    for name in layout.recorded_tracks(store, team):
        label = layout.records_label(f"{team}/{name}")
        logs.append(Log(store, layout.records_root(team, name), label))
    heads = {log.label.partition("/")[2]: head for log in logs if (head := log.head())}
    trusted = {name: Unsigned(seq=head.seq, sha256=head.sha256) for name, head in heads.items()}
    return rules.model_copy(update={"unsigned": {**trusted, **rules.unsigned}})


# --- manifests: canonical JSON, of which the keys are checked that readers use; unknown ones are kept


class BaseModelTold(Part):
    """The `model` section of the configuration that the version was trained with."""

    name: str | None = None


class Code(Part):
    """The code that trained the version."""

    git_commit: str | None = None
    git_changed: bool | None = None


class Told(Part):
    """What a manifest says beside its files, as far as readers use it."""

    base_model: BaseModelTold = BaseModelTold()
    base_digest: str | None = None
    code: Code = Code()


def parse_manifest(data: bytes, name: str) -> dict[str, Any]:
    """The manifest in bytes; `name` heads messages.

    Raises:
        IntegrityError: it is malformed. StoreError: a newer Orthoplex wrote it.
    """
    try:
        manifest: dict[str, Any] = json.loads(data)
        if (version := manifest["format_version"]) != FORMAT_VERSION:
            raise StoreError(f"{name}: unknown format_version {shown(repr(version))}; update orthoplex")
        if canonical(manifest) != data:
            raise ValueError("not canonical JSON")
        manifest_files(manifest)
        Told.model_validate(manifest)
    except ValidationError as error:
        raise IntegrityError(f"{name}: is malformed: {told(error, manifest)}; do not use this version") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{name}: is malformed ({error!r}); do not use this version") from None
    return manifest


def manifest_files(manifest: Mapping[str, Any]) -> dict[str, FileRecord]:
    """The files of a manifest, by path. Raises IntegrityError if a record is malformed, unsafe or repeated."""
    files: dict[str, FileRecord] = {}
    for item in manifest["files"]:
        record = FileRecord(item["path"], item["size"], item["sha256"])
        named = isinstance(record.path, str) and is_key(record.path) and not _clashes(record.path, [MANIFEST, *files])
        if not (named and type(record.size) is int and record.size >= 0 and SHA256.fullmatch(str(record.sha256))):
            raise IntegrityError(
                f"manifest: unsafe, reserved, repeated or incomplete: {shown(str(record))}; do not use this version"
            )
        files[record.path] = record
    return files


def _clashes(path: str, others: Sequence[str]) -> bool:
    """Whether a path cannot stand in one folder with the others, on any filesystem: the same but for case, or below."""
    mine = f"{path}/".lower()
    return any(mine.startswith(other) or other.startswith(mine) for other in (f"{each}/".lower() for each in others))
