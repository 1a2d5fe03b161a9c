"""Folders of files to a store and back, digests checked."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import IntegrityError
from cluster.storage import (
    FileRecord,
    Store,
    download_files,
    upload_files,
)


def test_upload_files(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"abc")
    (folder / "sub" / "a").write_bytes(b"")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert upload_files(store, "v/1", folder) == [FileRecord("b.txt", 3, abc), FileRecord("sub/a", 0, nothing)]
    assert store.list("") == ["v/1/b.txt", "v/1/sub/a"]
    assert store.get("v/1/b.txt") == b"abc"


def test_download_files_checks_what_arrives(store: Store, tmp_path: Path) -> None:
    folder, there = tmp_path / "files", tmp_path / "there"
    (folder / "sub").mkdir(parents=True)
    for number in range(40):
        (folder / f"sub/{number}").write_bytes(os.urandom(number))
    (folder / "large").write_bytes(os.urandom((16 << 20) + 1))
    records = upload_files(store, "v/1", folder)
    download_files(store, "v/1", records, there)
    assert all((there / record.path).read_bytes() == (folder / record.path).read_bytes() for record in records)
    good = next(record for record in records if record.path == "sub/7")
    for changed in (replace(good, size=8), replace(good, sha256="0" * 64)):
        with pytest.raises(IntegrityError, match="v/1/sub/7: differs from its manifest"):
            download_files(store, "v/1", [changed], tmp_path / "other")
        assert not (tmp_path / "other/sub/7").exists()
    (there / "link").symlink_to(tmp_path)
    for path in ("../x", "/etc/x", "link/x"):
        with pytest.raises(IntegrityError, match="not safe"):
            download_files(store, "v/1", [replace(good, path=path)], there)
