"""Single files to a store and back, of any size, and what a disk may refuse."""

import errno
import hashlib
import math
import os
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import KeyAbsentError, StoreError
from cluster.storage import (
    Store,
)

PARTS = 2 * (16 << 20) + 12345  # two whole parts and a bit


NEAR, FAR = (0.0, 1 << 62), (math.inf, 16 << 20)  # a server whose stream is followed to its end; one asked for parts


@pytest.mark.parametrize(
    ("size", "server"), [(0, NEAR), (1, NEAR), (70_001, FAR), (PARTS, NEAR), (PARTS, FAR), (16 << 20, FAR)]
)
def test_files_go_there_and_back(
    store: Store, *, tmp_path: Path, size: int, server: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("NEAR_BYTES_PER_S", "ONE_PUT_BYTES"), server, strict=True):
        monkeypatch.setattr(f"cluster.storage.s3.{name}", value)
    monkeypatch.setattr("cluster.storage.s3.SAMPLE_BYTES", 1 << 20)
    data, source, target = os.urandom(size), tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    target.write_bytes(b"a longer file that was there before" * 3)
    store.put("big/file.bin", b"old")
    moved = (size, hashlib.sha256(data).hexdigest())
    assert store.upload("big/file.bin", source) == moved
    assert hashlib.sha256(store.get("big/file.bin")).hexdigest() == moved[1]
    assert store.download("big/file.bin", target) == moved
    assert target.read_bytes() == data
    assert store.list("") == ["big/file.bin"]


def test_files_that_are_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent, which is to be stored: No such file"):
        store.upload("big/absent", tmp_path / "absent")
    with pytest.raises(KeyAbsentError, match="no object 'big/absent'"):
        store.download("big/absent", tmp_path / "target")
    store.put("k", b"v")
    with pytest.raises(StoreError, match=r"cannot write .*no folder/target.*choose another folder"):
        store.download("k", tmp_path / "no folder" / "target")
    os.mkfifo(tmp_path / "device")
    for other in (tmp_path / "device", tmp_path):  # is not removed, whatever goes wrong
        for key in ("k", "big/absent"):
            with pytest.raises(StoreError, match=r"is no plain file|no object"):
                store.download(key, other)
        assert other.exists()
    assert store.list("") == ["k"] and not (tmp_path / "target").exists()


def test_a_full_disk_here(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("k", b"v")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cluster.storage.transfer.os.pwrite", full)
    with pytest.raises(StoreError, match=r"cannot write .*target: No space left on device; free some space"):
        store.download("k", tmp_path / "target")
    assert not (tmp_path / "target").exists() and store.get("k") == b"v"
