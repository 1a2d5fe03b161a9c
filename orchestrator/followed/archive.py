"""One tar file of files, the same bytes for the same files, and read without being unpacked.

    contents.json     {"format": 1, …, "files": [{path, sha256, size}, …]}: canonical JSON, the first member
    …                 the files, sorted by path; owner 0, mode 644, time 0

Reading trusts nothing: members are regular files under safe names, each once, exactly those of contents.json, with
their sizes and digests, and nothing but zeros comes after them. No path of an archive is opened on this machine.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cluster.errors import ConfigError, IntegrityError, KeyAbsentError, StoreError
from cluster.storage import Content, FileRecord, is_key
from cluster.storage.disk import refusal
from cluster.storage.interface import Keys, refuse_larger
from orchestrator.delivery.tables import replacing
from orchestrator.log.entry import SHA256, JsonLike, canonical, digest
from orchestrator.log.event import shown

CONTENTS, FORMAT = "contents.json", 1
MOST_FILES, MOST_CONTENTS_BYTES = 1_000_000, 256 << 20
CHUNK = 1 << 20
Told = Mapping[str, JsonLike]
STORE = "store/"  # below it stand objects of the store under their keys


def write_archive(path: Path, files: Mapping[str, bytes | Path], told: Told, seal: Callable[[Told], Told]) -> str:
    """Writes files, by their paths in the archive, and what contents.json says beside them; returns the sha256 of
    contents.json. `seal` is given contents.json as it will be, and returns what else it is to say of it. The file
    appears whole or not at all. Raises ConfigError if the disk refuses."""
    content = {**told, "format": FORMAT, "files": [record_of(name, files[name]) for name in sorted(files)]}
    contents = canonical({**content, **seal(content)})
    try:
        with replacing(path) as staging, tarfile.open(staging, "w", format=tarfile.PAX_FORMAT) as archive:
            add(archive, CONTENTS, contents)
            for name in sorted(files):
                add(archive, name, files[name])
    except OSError as error:
        raise ConfigError(str(refusal(f"--output {path}: cannot be written", error, "choose another path"))) from None
    return digest(contents)


def record_of(name: str, content: bytes | Path) -> dict[str, JsonLike]:
    """A file's line of contents.json."""
    if isinstance(content, bytes):
        return {"path": name, "size": len(content), "sha256": digest(content)}
    with content.open("rb") as file:
        return {"path": name, "size": content.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    """A member whose header depends on its name and size alone."""
    member = tarfile.TarInfo(name)  # owner 0 without a name, mode 644, time 0
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    member.size = content.stat().st_size
    with content.open("rb") as file:
        archive.addfile(member, file)


@dataclass(frozen=True, eq=False)
class Archive:
    """An open archive. `contents` is contents.json as it is parsed, `files` are its records by path, `places` the
    offsets of the members in `file`."""

    file: IO[bytes]
    path: Path
    contents: Told
    sha256: str
    files: Mapping[str, FileRecord]
    places: Mapping[str, int]

    def read(self, name: str) -> bytes:
        """A member, checked against contents.json. Raises KeyAbsentError if there is none, IntegrityError if it was
        changed."""
        if (record := self.files.get(name)) is None:
            raise KeyAbsentError(f"{self.path}: holds no {name!r}")
        data = b"".join(self._pieces(name))
        record.check(f"{self.path}: {name}", len(data), digest(data))
        return data

    def faults(self) -> Iterator[str]:
        """Members that differ from contents.json, one line each. Each is read once, and none is held whole."""
        for name, record in self.files.items():
            found = hashlib.sha256()
            for piece in self._pieces(name):
                found.update(piece)
            if found.hexdigest() != record.sha256:
                yield f"{name}: was changed; its sha256 is {found.hexdigest()}, not {record.sha256}"

    def _pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a member, a few at a time; several threads may read at once."""
        place, left = self.places[name], self.files[name].size
        while left and (piece := os.pread(self.file.fileno(), min(left, CHUNK), place)):
            yield piece
            place, left = place + len(piece), left - len(piece)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive in a file.

    Raises:
        ConfigError: it cannot be read. IntegrityError: it is no archive of this kind, or holds what none may hold.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"FILE {str(path)!r}: is no file; name an archive that `orthoplex evidence` wrote")
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"FILE {str(path)!r}: cannot be read: {error.strerror}; name another") from None
    with file:
        yield parsed(file, path)


def parsed(file: IO[bytes], path: Path) -> Archive:
    """The members of an archive and what it says of them. Errors are those of `opened`."""
    places: dict[str, int] = {}
    sizes: dict[str, int] = {}
    end, most = 0, os.fstat(file.fileno()).st_size
    for member in members(file, path):
        fault = fault_of(member) or ("is there twice" if member.name in places else None)
        if fault or len(places) > MOST_FILES:
            raise broken(path, f"{shown(member.name)!r} {fault or 'is one file too many'}")
        places[member.name], sizes[member.name] = member.offset_data, member.size
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        stop = member.offset_data + member.size
        if not 0 <= member.size <= end <= most:
            raise broken(path, f"{shown(member.name)!r} is cut")
        if os.pread(file.fileno(), end - stop, stop).strip(b"\0"):
            raise broken(path, f"something stands behind {shown(member.name)!r}")
    check_end(file, path, end)
    if CONTENTS not in places or sizes[CONTENTS] > MOST_CONTENTS_BYTES:
        raise broken(path, f"{CONTENTS} is missing or too large")
    file.seek(places.pop(CONTENTS))
    data = file.read(sizes.pop(CONTENTS))
    contents, files = listed_in(data, path)
    if {name: record.size for name, record in files.items()} != sizes:
        other = sorted({*files} ^ {*sizes}) or [name for name in files if files[name].size != sizes[name]]
        raise broken(path, f"its files are not those of {CONTENTS}: {shown(other[0])!r}")
    return Archive(file=file, path=path, contents=contents, sha256=digest(data), files=files, places=places)


def members(file: IO[bytes], path: Path) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar file, one after the other. Raises IntegrityError if it is none, or is damaged."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield from archive
    except (MemoryError, RecursionError):  # what a header says of its own length is believed
        raise broken(path, "a header is too large, or has too many before it") from None
    except (tarfile.TarError, ValueError, TypeError, LookupError, OverflowError, EOFError) as error:  # of its parser
        raise broken(path, f"is no tar file, or damaged ({error})") from None


def fault_of(member: tarfile.TarInfo) -> str | None:
    """Why a member may not be in an archive; None if it may."""
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        return "is no regular file"
    told = member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode
    if told != (0, 0, 0, "", "", 0o644) or member.pax_headers.keys() - {"path"}:
        return "has an owner, a time or a mode of its own"
    return None if is_key(member.name) else "is no safe name"


def check_end(file: IO[bytes], path: Path, end: int) -> None:
    """Raises IntegrityError if anything but zeros comes after the last member, or more of them than tar writes."""
    file.seek(0, io.SEEK_END)
    left = file.tell() - end
    file.seek(end)
    if not 0 <= left <= 2 * tarfile.RECORDSIZE or file.read(left).strip(b"\0"):
        raise broken(path, "its end is cut, or something comes after it")


def listed_in(data: bytes, path: Path) -> tuple[Told, dict[str, FileRecord]]:
    """contents.json, and the files that it lists."""
    try:
        contents = json.loads(data)
        if contents["format"] != FORMAT:
            raise StoreError(f"{path}: has the format {shown(repr(contents['format']))}; update orthoplex")
        if canonical(contents) != data:
            raise ValueError("not canonical JSON")
        files = {each["path"]: FileRecord(each["path"], each["size"], each["sha256"]) for each in contents["files"]}
        for record in files.values():
            if not (type(record.size) is int and isinstance(record.path, str) and SHA256.fullmatch(record.sha256)):
                raise ValueError(f"no path, size or sha256: {shown(str(record))}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise broken(path, f"{CONTENTS} is malformed ({error!r})") from None
    if len(files) != len(contents["files"]):
        raise broken(path, f"{CONTENTS} lists a file twice")
    return contents, files


def broken(path: Path, fault: str) -> IntegrityError:
    """An archive that is not what `evidence` writes."""
    return IntegrityError(f"{path}: {fault}; it is not as `orthoplex evidence` wrote it: ask for another copy")


class PackedStore:
    """The objects of a store that an archive holds. It is read only, see `cluster.storage.Store`."""

    def __init__(self, archive: Archive) -> None:
        self.archive, self.uri = archive, f"evidence:{archive.sha256}"
        self.keys = sorted(name.removeprefix(STORE) for name in archive.files if name.startswith(STORE))

    def get(self, key: str, most: int | None = None) -> bytes:
        """See Store."""
        if record := self.archive.files.get(f"{STORE}{key}"):
            refuse_larger(self.uri, key, record.size, most)
        return self.archive.read(f"{STORE}{key}")

    def download(self, key: str, path: Path, most: int | None = None) -> Content:
        """See Store."""
        data = self.get(key, most)
        path.write_bytes(data)
        return Content(len(data), digest(data))

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        """See Store."""
        return [key for key in self.keys if key.startswith(prefix)][:limit]

    def list_folders(self, prefix: str) -> Keys:
        """See Store."""
        top = f"{prefix}/" if prefix else ""
        below = (key.removeprefix(top) for key in self.keys if key.startswith(top))
        return sorted({name for name, slash, _ in (each.partition("/") for each in below) if slash})

    def put(self, key: str, data: bytes) -> None:  # noqa: ARG002
        """Refused."""
        raise self._read_only(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:  # noqa: ARG002
        """Refused."""
        raise self._read_only(key)

    def upload(self, key: str, path: Path) -> Content:  # noqa: ARG002
        """Refused."""
        raise self._read_only(key)

    def delete(self, key: str) -> None:
        """Refused."""
        raise self._read_only(key)

    def _read_only(self, key: str) -> StoreError:
        return StoreError(f"{self.archive.path}: {key}: an archive of evidence is not written to")
