"""Which versions exist. A *track* is one team's stream over one base model, in a store:

    t/<team>/<track>/log/<10^9 − seq, ten digits>.json   entries: {seq, prev_sha256, nonce, actor, time, op, …}
    t/<team>/<track>/v/<uuid>/…                          files of one version, and manifest.json
    t/<team>/<track>/checkpoint.safetensors              the task in training, replaced as a whole; no entry names it

Entries are canonical JSON, never change, and each holds the digest of the one before. The newest is the first key in
the log. What no entry names does not exist. A chain vouches for what came before: an edit of the newest entry, or the
loss of the last ones, shows only to those who remember its digest.
"""

import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, ConflictError, IntegrityError, KeyAbsentError, StoreError
from cluster.storage import FileRecord, Store, is_key

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
ENTRY_KEY = re.compile(rf"t/({NAME.pattern})/({NAME.pattern})/log/([0-9]{{10}})\.json")
SHA256 = re.compile(r"[0-9a-f]{64}")
FIELDS = {"seq": int, "prev_sha256": str, "nonce": str, "actor": str, "time": str, "op": str}
NEWEST_FIRST = 10**9
READERS, BATCH = 16, 256


@dataclass(frozen=True)
class Entry:
    """One log entry. `time` is ISO 8601 UTC, `sha256` the digest of its bytes, `prev_sha256` that of entry seq − 1's.

    `body` holds everything that is not a field.
    """

    seq: int
    prev_sha256: str
    nonce: str
    actor: str
    time: str
    op: str
    body: dict[str, Any]
    sha256: str


class Track:
    """The log of `team`/`name`, and its versions below `version_root`. Raises ConfigError where no NAME matches."""

    def __init__(self, store: Store, team: str, name: str) -> None:
        for key, value in (("team", team), ("name", name)):
            if not NAME.fullmatch(value):
                raise ConfigError(f"{key}: {value!r} is no name; use a-z 0-9, then also . _ -, at most 100 characters")
        self.store, self.team, self.name = store, team, name
        self.root, self.version_root = f"t/{team}/{name}", f"t/{team}/{name}/v"
        self.checkpoint_key = f"{self.root}/checkpoint.safetensors"

    def fresh_prefix(self) -> str:
        """A key prefix for a new version: version_root/<uuid4 hex>."""
        return f"{self.version_root}/{uuid.uuid4().hex}"

    def entries(self) -> list[Entry]:
        """The whole log, oldest first: seq is 1, 2, … and prev_sha256 the digest of the entry before, "" in the first.

        Raises IntegrityError, which names the entry, where one is missing, malformed or was changed.
        """
        return self.since(None)

    def since(self, after: Entry | None) -> list[Entry]:
        """What was written after the entry `after` (None: all), oldest first. Raises as `entries` does."""
        head, found = self.head(), list[Entry]()
        begin, end = after.seq + 1 if after else 1, head.seq + 1 if head else 1
        last = after.sha256 if after else ""
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(begin, end, BATCH):
                for entry in pool.map(self._read, range(start, min(start + BATCH, end))):
                    if entry.prev_sha256 != last:
                        raise self._broken(entry.seq, "does not follow the one before; one of the two was changed")
                    found.append(entry)
                    last = entry.sha256
        return found

    def head(self) -> Entry | None:
        """The newest entry, from one LIST and one GET; None in an empty log. Raises IntegrityError where malformed."""
        keys = self.store.list(f"{self.root}/log/0", limit=1)
        if not keys:
            return None
        if not (match := ENTRY_KEY.fullmatch(keys[0])):
            raise IntegrityError(f"store {self.store.uri}: {keys[0]} is no log entry; take it out of the log")
        return self._read(NEWEST_FIRST - int(match[3]))

    def append(self, op: str, body: dict[str, Any], *, after: Entry | None) -> Entry:
        """Commits entry seq(after) + 1 on top of `after`, the newest entry the caller has read (None: an empty log).

        Raises ConflictError, which names the other writer, where one was first: then nothing was written. Raises
        ValueError where `body` holds the name of a field, NaN or infinity.
        """
        if clash := sorted(FIELDS.keys() & body.keys()):
            raise ValueError(f"entry {op!r}: the body may not hold {', '.join(clash)}")
        seq = after.seq + 1 if after else 1
        chained = {"seq": seq, "prev_sha256": after.sha256 if after else "", "nonce": uuid.uuid4().hex}
        written = {"actor": actor(), "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "op": op}
        data = canonical({**body, **chained, **written})
        if self.store.put_if_absent(self._key(seq), data):
            return parse_entry(data)
        other = self._read(seq)
        raise ConflictError(
            f"{self.team}/{self.name}: {other.actor} wrote entry {seq} ({other.op}) first, at {other.time}; another "
            "driver is at work on this run: let it finish, or stop it, then run again"
        )

    def write_manifest(self, prefix: str, metadata: dict[str, Any], files: list[FileRecord]) -> str:
        """Writes `prefix`/manifest.json: {"format_version", "files", **metadata}; returns the sha256 of its bytes.

        Raises ValueError where `metadata` holds one of the two names, NaN or infinity.
        """
        content = {"format_version": FORMAT_VERSION, "files": [asdict(record) for record in files]}
        if clash := sorted(content.keys() & metadata.keys()):
            raise ValueError(f"manifest of {prefix}: the metadata may not hold {', '.join(clash)}")
        manifest_files(content)
        data = canonical({**metadata, **content})
        self.store.put(f"{prefix}/{MANIFEST}", data)
        return digest(data)

    def read_manifest(self, prefix: str, sha256: str) -> dict[str, Any]:
        """The manifest of a version, whose digest a log entry holds.

        Raises IntegrityError where it is missing, has another digest or is malformed, StoreError where it is too new.
        """
        data = self._get(f"{prefix}/{MANIFEST}")
        if digest(data) != sha256:
            raise IntegrityError(f"{prefix}/{MANIFEST}: was changed; its sha256 is {digest(data)}, not {sha256}")
        try:
            manifest: dict[str, Any] = json.loads(data)
            if (version := manifest["format_version"]) != FORMAT_VERSION:
                raise StoreError(f"{prefix}/{MANIFEST}: unknown format_version {version!r}; update orthoplex")
            manifest_files(manifest)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise IntegrityError(f"{prefix}/{MANIFEST}: is malformed ({error!r}); do not use this version") from None
        return manifest

    def read_file(self, prefix: str, manifest: dict[str, Any], path: str) -> bytes:
        """One file of a version. Raises KeyAbsentError where the manifest does not list it, IntegrityError where it is
        missing or differs from the manifest."""
        record = manifest_files(manifest).get(path)
        if record is None:
            raise KeyAbsentError(f"{prefix}: its manifest lists no file {path!r}")
        data = self._get(f"{prefix}/{path}")
        if (len(data), digest(data)) != (record.size, record.sha256):
            raise IntegrityError(f"{prefix}/{path}: differs from its manifest (sha256 {record.sha256}); it was changed")
        return data

    def fetch(self, prefix: str, manifest: dict[str, Any], directory: Path) -> None:
        """Makes `directory`, which must be absent or empty, with every file of a version in it, or not at all.

        Raises IntegrityError where a file is missing or differs, StoreError where the directory cannot be made.
        """
        directory = directory.absolute()
        staging = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
        try:
            staging.mkdir(parents=True)
            for path in manifest_files(manifest):
                target = staging / path
                if not target.resolve().is_relative_to(staging.resolve()):
                    raise IntegrityError(f"{prefix}: the path {path!r} leads out of its folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.read_file(prefix, manifest, path))
            staging.replace(directory)
        except OSError as error:
            raise StoreError(f"cannot make {directory}: {error.strerror}; choose a folder that is new") from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _key(self, seq: int) -> str:
        return f"{self.root}/log/{NEWEST_FIRST - seq:010d}.json"

    def _read(self, seq: int) -> Entry:
        try:
            entry = parse_entry(self.store.get(self._key(seq)))
        except KeyAbsentError:
            raise self._broken(seq, "is missing") from None
        except (ValueError, RecursionError) as error:
            raise self._broken(seq, f"is malformed ({error})") from None
        if entry.seq != seq:
            raise self._broken(seq, f"says that it is entry {entry.seq}")
        return entry

    def _get(self, key: str) -> bytes:
        try:
            return self.store.get(key)
        except KeyAbsentError:
            raise IntegrityError(f"store {self.store.uri}: {key} is missing; restore it from a backup") from None

    def _broken(self, seq: int, fault: str) -> IntegrityError:
        return IntegrityError(f"store {self.store.uri}: entry {seq} ({self._key(seq)}) {fault}; restore a backup of it")


def list_tracks(store: Store) -> list[tuple[str, str]]:
    """(team, name) of every track with at least one entry, sorted. Lists the whole store."""
    matches = (ENTRY_KEY.fullmatch(key) for key in store.list("t/"))
    return sorted({(match[1], match[2]) for match in matches if match})


def parse_entry(data: bytes) -> Entry:
    """The entry in canonical JSON bytes; raises ValueError where they are none."""
    content = json.loads(data)
    if not isinstance(content, dict) or canonical(content) != data:
        raise ValueError("not canonical JSON")
    if wrong := [name for name, kind in FIELDS.items() if type(content.get(name)) is not kind]:
        raise ValueError(f"no valid {', '.join(wrong)}")
    fields = {name: content.pop(name) for name in FIELDS}
    return Entry(**fields, body=content, sha256=digest(data))


def manifest_files(manifest: dict[str, Any]) -> dict[str, FileRecord]:
    """The files a manifest lists, by path; raises IntegrityError where a record is malformed, unsafe or repeated."""
    files: dict[str, FileRecord] = {}
    for item in manifest["files"]:
        record = FileRecord(item["path"], item["size"], item["sha256"])
        named = isinstance(record.path, str) and is_key(record.path) and record.path not in (MANIFEST, *files)
        if not (named and isinstance(record.size, int) and SHA256.fullmatch(str(record.sha256))):
            raise IntegrityError(
                f"manifest: unsafe, reserved, repeated or incomplete: {record}; do not use this version"
            )
        files[record.path] = record
    return files


def canonical(content: dict[str, Any]) -> bytes:
    """JSON as UTF-8 bytes: keys are strings, sorted; no spaces; NaN and infinity raise ValueError."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # keys become strings before they are sorted
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes JSON's own escape for it


def digest(data: bytes) -> str:
    """The sha256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def actor() -> str:
    """Who writes: user@host, or uid<number>@host where the user has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
