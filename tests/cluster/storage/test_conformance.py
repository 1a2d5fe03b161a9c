"""One conformance suite that every store passes, and how stores are opened."""

import copy
import errno
import hashlib
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, IntegrityError, KeyAbsentError, StoreError
from cluster.storage import (
    PROBE_KEY,
    FileRecord,
    LocalStore,
    S3Store,
    Store,
    download_files,
    is_key,
    open_store,
    probe,
    upload_files,
)

HOSTILE = (
    "", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "a\\b", "a b", "a\n", "a\0b",
    "ä", "a:b", "~", "a/*", ".tmp/x", ".tmp", "x" * 513,
)  # fmt: skip
SAFE = ("adapter.safetensors", "log/0999999999.json", PROBE_KEY, "t/a-b/c_d/v/0f/e.f", "...", "README.md", "x" * 200)


# --- conformance


def test_get_gives_back_what_was_put(store: Store) -> None:
    data = "Ünïcode ✓\0\r\n".encode() + bytes(range(256))
    for key in SAFE:
        store.put(key, data)
        assert store.get(key) == data
    store.put("empty", b"")
    assert store.get("empty") == b""


def test_put_replaces(store: Store) -> None:
    store.put("k", b"a longer old value")
    store.put("k", b"new")
    assert store.get("k") == b"new"


def test_absent_key(store: Store) -> None:
    store.put("a/b", b"")
    for key in ("x", "a", "a/c", "a/b2"):
        with pytest.raises(KeyAbsentError, match=f"no object '{key}'"):
            store.get(key)


def test_list_is_in_byte_order_below_a_prefix(store: Store) -> None:
    keys = ["a", "a-b", "a.b/c", "a0", "aB", "a_b", "ab", "dir/1", "dir/10", "dir/2", "dir/sub/x", "dir-x/1", "Z"]
    assert store.list("") == []
    for key in keys:
        store.put(key, b"")
    ordered = sorted(keys, key=str.encode)
    assert store.list("") == ordered
    assert store.list("dir/") == ["dir/1", "dir/10", "dir/2", "dir/sub/x"]
    assert store.list("dir/1") == ["dir/1", "dir/10"]
    assert store.list("dir") == ["dir-x/1", "dir/1", "dir/10", "dir/2", "dir/sub/x"]
    assert store.list("nothing/here/") == []
    for limit in (1, 3, 100):
        assert store.list("", limit=limit) == ordered[:limit]
    assert store.list("dir/", limit=1) == ["dir/1"]


def test_put_if_absent(store: Store) -> None:
    assert store.put_if_absent("k/1", b"first")
    assert not store.put_if_absent("k/1", b"second")
    assert store.get("k/1") == b"first"
    store.put("k/2", b"put")
    assert not store.put_if_absent("k/2", b"late")


def test_of_twenty_racing_writers_one_wins(store: Store) -> None:
    for round_ in range(3):
        barrier, wins = threading.Barrier(20), []

        def write(number: int, key: str = f"race/{round_}", wait: Any = barrier.wait, wins: list[int] = wins) -> None:
            wait()
            if store.put_if_absent(key, f"writer {number}".encode()):
                wins.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert store.get(f"race/{round_}") == f"writer {wins[0]}".encode()


PARTS = 2 * (16 << 20) + 12345  # two whole parts and a bit
NEAR, FAR = (0.0, 1 << 62), (math.inf, 16 << 20)  # a server whose stream is followed to its end; one asked for parts


@pytest.mark.parametrize(
    ("size", "server"), [(0, NEAR), (1, NEAR), (70_001, FAR), (PARTS, NEAR), (PARTS, FAR), (16 << 20, FAR)]
)
def test_files_go_there_and_back(
    store: Store, *, tmp_path: Path, size: int, server: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("NEAR_BYTES_A_S", "ONE_PUT_BYTES"), server, strict=True):
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


def test_delete(store: Store) -> None:
    for key in ("a/b", "a/c", "d"):
        store.put(key, b"")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")
    assert store.list("") == ["a/c", "d"]
    with pytest.raises(KeyAbsentError):
        store.get("a/b")
    assert store.put_if_absent("a/b", b"again")


def test_list_folders(store: Store) -> None:
    assert store.list_folders("") == [] and store.list_folders("t") == []
    keys = ["t/a/log/1", "t/a/v/2/x", "t/b/log/1", "t/b2/log/1", "t/file", "t/a.b/1", "t/Z/1", "u/c/d", "top"]
    for key in keys:
        store.put(key, b"")
    assert store.list_folders("") == ["t", "u"]
    assert store.list_folders("t") == store.list_folders("t/") == ["Z", "a", "a.b", "b", "b2"]
    assert store.list_folders("t/a") == ["log", "v"] and store.list_folders("t/b/log") == []
    store.delete("u/c/d")
    assert store.list_folders("") == ["t"]


def test_list_folders_beyond_a_page(store: Store) -> None:
    names = [f"f{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(f"t/{name}/x", b""), names))
    assert store.list_folders("t") == names


def test_hostile_keys_are_refused(store: Store, tmp_path: Path) -> None:
    for key in HOSTILE:
        assert not is_key(key)
        calls: list[Callable[[], Any]] = [
            lambda key=key: store.get(key),
            lambda key=key: store.put(key, b""),
            lambda key=key: store.put_if_absent(key, b""),
            lambda key=key: store.upload(key, Path(__file__)),
            lambda key=key: store.download(key, tmp_path / "target"),
            lambda key=key: store.delete(key),
        ]
        listing = [lambda key=key: store.list(key), lambda key=key: store.list_folders(key)]
        for call in calls + (listing if key not in ("", "a/") else []):
            with pytest.raises(StoreError, match=r"not safe") as caught:
                call()
            assert not isinstance(caught.value, KeyAbsentError)
    assert store.list("") == []


def test_copies_reopen(store: Store, shared: Callable[[Store], Store]) -> None:
    store.put("k", b"v")
    for twin in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store), open_store(store.uri)):
        assert twin.uri == store.uri and "client" not in vars(twin)
        assert shared(twin).get("k") == b"v"


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


def test_probe_accepts_and_may_be_repeated(store: Store) -> None:
    probe(store)
    probe(store)
    assert store.list("") == [PROBE_KEY]


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


class Ignoring:
    """A store that overwrites whatever the condition says, and `answers` as told."""

    def __init__(self, inner: Store, answers: bool) -> None:
        self.inner, self.answers, self.uri = inner, answers, "s3://careless"
        self.get, self.put, self.list = inner.get, inner.put, inner.list
        self.upload, self.download = inner.upload, inner.download
        self.list_folders, self.delete = inner.list_folders, inner.delete

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.inner.put(key, data)
        return self.answers


@pytest.mark.parametrize("answers", [True, False])
def test_probe_refuses_a_store_that_ignores_the_condition(store: Store, answers: bool) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match=r"s3://careless.*If-None-Match"):
            probe(Ignoring(store, answers))


def test_probe_refuses_a_store_that_does_not_list(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "list", lambda prefix, limit=None: [])
    with pytest.raises(StoreError, match="does not list"):
        probe(store)


# --- open_store


def test_open_store_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for uri, canonical in {
        "store": f"{tmp_path}/store",
        "./a/../store": f"{tmp_path}/store",
        "/x/y z/@": "/x/y z/@",
        "~/store": "/home/me/store",
        "file:///x/y%20z": "/x/y z",
        "s3://bucket": "s3://bucket",
        "s3://bucket/": "s3://bucket",
        "s3://my.bucket/a/B_c/": "s3://my.bucket/a/B_c",
        "s3://bucket/a?kms_key=alias/k&sse=aws:kms": "s3://bucket/a?sse=aws:kms&kms_key=alias/k",
        "s3://bucket?sse=AES256": "s3://bucket?sse=AES256",
        "s3://bucket?lock_days=30&lock_mode=GOVERNANCE": "s3://bucket?lock_mode=GOVERNANCE&lock_days=30",
    }.items():
        opened = open_store(uri)
        assert opened.uri == canonical
        assert type(opened) is (S3Store if uri.startswith("s3") else LocalStore)
        assert open_store(opened.uri).uri == canonical
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    ["", " ", "s3://", "s3:///prefix", "s3:bucket", "s3://bucket//a", "s3://bucket/../x", "S3://bucket",
     "gs://bucket", "http://host/bucket", "file://host/x", "file://", "a\nb", "~nobody-of-this-name/x"],
)  # fmt: skip
def test_open_store_refuses_other_forms(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert repr(uri) in str(caught.value) and "s3://bucket/prefix" in str(caught.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [("x=hunter2", "'x' is no option.*sse, kms_key, lock_mode, lock_days"), ("sse", "option=value"),
     ("sse=none", "sse='none': use one of AES256"), ("kms_key=k", "kms_key needs sse=aws:kms"),
     ("lock_mode=GOVERNANCE", "go together"), ("lock_days=3", "go together"), ("lock_mode=x&lock_days=1", "GOVERNANCE"),
     ("lock_mode=GOVERNANCE&lock_days=-1", "whole number"), ("sse=AES256&sse=AES256", "twice")],
)  # fmt: skip
def test_options_that_are_none(query: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(f"s3://bucket/a?{query}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["s3://user:hunter2@bucket/x", "https://user:hunter2@host/x", "s3://user:hunt/er2@bucket", "user:hunter2@host/x"],
)
def test_open_store_keeps_passwords_to_itself(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert "hunt" not in str(caught.value) and "AWS_PROFILE" in str(caught.value)


def test_opening_imports_no_sdk() -> None:
    code = "import sys, cluster.storage as s; s.open_store('s3://bucket'); assert 'botocore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
