"""The same files are the same bytes, and what an archive may not hold is refused without being unpacked."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, IntegrityError, KeyAbsentError, StoreError
from orchestrator.followed.archive import CONTENTS, PackedStore, opened, write_archive
from orchestrator.log.entry import canonical, digest

FILES: dict[str, bytes | Path] = {"store/t/a/log/2.json": b"two", "store/t/a/log/1.json": b"one", "README.txt": b""}


def written(path: Path, files: dict[str, bytes | Path] = FILES) -> Path:
    write_archive(path, files, {"kind": "x"}, lambda told: {"seal": len(told["files"])})  # type: ignore[arg-type]
    return path


def test_the_same_files_are_the_same_bytes(tmp_path: Path) -> None:
    """Whatever order they come in, and whether they come from memory or from files of any owner and age."""
    (tmp_path / "two").write_bytes(b"two")
    (tmp_path / "two").chmod(0o600)
    other: dict[str, bytes | Path] = {**dict(reversed(FILES.items())), "store/t/a/log/2.json": tmp_path / "two"}
    one, two = written(tmp_path / "a.tar").read_bytes(), written(tmp_path / "b.tar", other).read_bytes()
    assert one == two and not [*tmp_path.glob(".*")]
    with tarfile.open(tmp_path / "a.tar") as made:
        members = made.getmembers()
    assert [each.name for each in members] == [CONTENTS, *sorted(FILES)]
    assert {(each.mtime, each.uid, each.gid, each.uname, each.mode) for each in members} == {(0, 0, 0, "", 0o644)}


def test_members_are_read_and_objects_of_the_store_too(tmp_path: Path) -> None:
    with opened(written(tmp_path / "a.tar")) as archive:
        assert archive.contents["seal"] == 3 and [*archive.faults()] == []
        store = PackedStore(archive)
        assert store.get("t/a/log/1.json") == b"one" and store.list("t/a/") == ["t/a/log/1.json", "t/a/log/2.json"]
        assert (
            store.list_folders("t") == ["a"]
            and store.list_folders("") == ["t"]
            and store.list("t", 1) == store.keys[:1]
        )
        assert store.download("t/a/log/2.json", tmp_path / "got").sha256 == digest(b"two")
        assert (tmp_path / "got").read_bytes() == b"two"
        with pytest.raises(KeyAbsentError):
            store.get("t/a/log/3.json")
        with pytest.raises(IntegrityError, match="more than the 2 bytes"):
            store.get("t/a/log/1.json", 2)
        for write in (lambda: store.put("k", b""), lambda: store.put_if_absent("k", b""), lambda: store.delete("k"),
                      lambda: store.upload("k", tmp_path / "got")):  # fmt: skip
            with pytest.raises(StoreError, match="is not written to"):
                write()


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes().replace(b"two", b"tvo"))
    with opened(path) as archive:
        assert [each.partition(":")[0] for each in archive.faults()] == ["store/t/a/log/2.json"]
        with pytest.raises(IntegrityError, match="it was changed"):
            archive.read("store/t/a/log/2.json")


def made_of(path: Path, *members: tuple[str, bytes, dict[str, Any]], contents: bytes | None = None) -> Path:
    """An archive with these members, and contents.json that lists them, unless other contents are given."""
    listed = [{"path": name, "size": len(data), "sha256": digest(data)} for name, data, _ in members]
    told = canonical({"format": 1, "files": listed}) if contents is None else contents
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data, more in ((CONTENTS, told, {}), *members):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in more.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_well_formed_one_of_ours_is_read(tmp_path: Path) -> None:
    with opened(made_of(tmp_path / "a.tar", ("x", b"1", {}))) as archive:
        assert archive.read("x") == b"1"


def tar_without_contents(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return path


def gzipped(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(CONTENTS))
    return path


def listing(path: Path, *, name: Any = "x", size: Any = 1, data: bytes | None = None) -> Path:
    """An archive whose contents.json lists one file of that name and size; `data` is in it, if it is given."""
    told = canonical({"format": 1, "files": [{"path": name, "size": size, "sha256": digest(data or b"")}]})
    return made_of(path, *(() if data is None else (("x", data, {}),)), contents=told)


def special(kind: bytes) -> Callable[[Path], Path]:
    return lambda path: made_of(path, ("x", b"", {"type": kind, "linkname": "/etc/passwd"}))


def named(name: str) -> Callable[[Path], Path]:
    return lambda path: made_of(path, (name, b"", {}))


def saying(contents: bytes) -> Callable[[Path], Path]:
    return lambda path: made_of(path, contents=contents)


def ended(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def call(path: Path) -> Path:
        path.write_bytes(change(written(path).read_bytes()))
        return path

    return call


def sized(path: Path, size: int) -> Path:
    """The first member's header says that it has so many bytes, in the base 256 of GNU's tar."""
    data = bytearray(written(path).read_bytes())
    data[124:136] = bytes([0x80 if size > 0 else 0xFF]) + (size % (1 << 88)).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    path.write_bytes(data)
    return path


def sparse(path: Path) -> Path:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9999999999"}
    return made_of(path, ("x", b"0\n" + b"\0" * 510, {"pax_headers": headers}))


def headed(header: bytes) -> Callable[[Path], Path]:
    return ended(lambda data: header + data)


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a way out": (named("../x"), "is no safe name"),
    "an absolute path": (named("/etc/x"), "is no safe name"),
    "a name that moves the cursor": (named("x\x1b[2J"), "is no safe name"),
    "a header of terabytes": (headed(header(b"x", 1 << 44)), "header is too large"),
    "a name of terabytes": (headed(header(b"L", 1 << 44)), "header is too large"),
    "headers of headers": (headed((header(b"L", 1) + b"x".ljust(512, b"\0")) * 3000), "too many before it"),
    "a name that is a number": (lambda p: listing(p, name=1, data=b""), "no path, size or sha256"),
    "a link": (special(tarfile.SYMTYPE), "no regular file"),
    "a hard link": (special(tarfile.LNKTYPE), "no regular file"),
    "a device": (special(tarfile.CHRTYPE), "no regular file"),
    "a pipe": (special(tarfile.FIFOTYPE), "no regular file"),
    "a folder": (special(tarfile.DIRTYPE), "no regular file"),
    "a sparse file": (sparse, "no regular file|no tar file|of its own"),
    "a time of its own": (lambda p: made_of(p, ("x", b"", {"mtime": 1})), "a time or a mode"),
    "a script": (lambda p: made_of(p, ("x", b"", {"mode": 0o755})), "a time or a mode"),
    "a size beyond everything": (lambda p: sized(p, 1 << 80), "is cut|no tar file"),
    "a size below nothing": (lambda p: sized(p, -(1 << 70)), "is cut|no tar file|is there twice"),
    "an owner": (lambda p: made_of(p, ("x", b"", {"uname": "root"})), "an owner"),
    "a remark": (lambda p: made_of(p, ("x", b"", {"pax_headers": {"comment": "hidden"}})), "of its own"),
    "something between two files": (ended(lambda data: data.replace(b"one\0", b"one!")), "stands behind"),
    "a file twice": (lambda p: made_of(p, ("x", b"1", {}), ("x", b"1", {})), "is there twice"),
    "contents twice": (named(CONTENTS), "is there twice"),
    "a file that is not listed": (
        lambda p: made_of(p, ("x", b"1", {}), contents=canonical({"format": 1, "files": []})),
        "not those of contents.json: 'x'",
    ),
    "a file that is listed and absent": (lambda p: listing(p, name="y"), "'y'"),
    "another size": (lambda p: listing(p, size=9, data=b"1"), "'x'"),
    "a size that is no number": (lambda p: listing(p, size=True, data=b"1"), "malformed"),
    "contents that are no JSON": (saying(b"{"), "malformed"),
    "contents that are no mapping": (saying(b"[]"), "malformed"),
    "contents in another form": (saying(b'{"files": [], "format": 1}'), "not canonical"),
    "nested contents": (saying(b"[" * 100_000), "malformed"),
    "no contents": (tar_without_contents, "contents.json is missing"),
    "no tar": (lambda p: (p.write_bytes(b"x" * 2000), p)[1], "no tar file"),
    "nothing": (lambda p: (p.write_bytes(b""), p)[1], "no tar file"),
    "a cut one": (ended(lambda data: data[:2100]), "no tar file|is cut"),
    "something behind it": (ended(lambda data: data + b"more"), "comes after it"),
    "much behind it": (ended(lambda data: data + b"\0" * 99_999), "comes after it"),
    "a compressed one": (gzipped, "no tar file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_archive_holds_is_refused(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    path = make(tmp_path / "a.tar")
    with pytest.raises(IntegrityError, match=message), opened(path):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["a.tar"]


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    path = made_of(tmp_path / "a.tar", contents=canonical({"format": 2, "files": []}))
    with pytest.raises(StoreError, match="has the format 2; update orthoplex"), opened(path):
        pass


def test_no_file_is_no_archive(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ConfigError, match="is no file"), opened(path):
            pass
    with pytest.raises(ConfigError, match="cannot be written"):
        write_archive(tmp_path / "no" / "a.tar", {}, {}, lambda _: {})


def test_what_is_listed_is_json(tmp_path: Path) -> None:
    with tarfile.open(written(tmp_path / "a.tar")) as archive:
        member = archive.extractfile(CONTENTS)
        assert member is not None
        told = json.loads(member.read())
    assert told["files"][0] == {"path": "README.txt", "sha256": digest(b""), "size": 0} and told["format"] == 1
