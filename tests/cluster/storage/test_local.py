"""What is particular to a store in a folder."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import IntegrityError, KeyAbsentError, StoreError
from cluster.storage import PROBE_KEY, FileRecord, LocalStore, download_files, probe
from cluster.storage.disk import DiskFullError
from cluster.storage.local import RESERVE_BYTES, StoreGoneError
from tests.support.disks import Disk


def test_reading_a_folder_changes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "absent")
    assert store.list("t/") == []
    with pytest.raises(KeyAbsentError):
        store.get("t/x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["put", "put_if_absent"])
def test_a_killed_writer_leaves_nothing_visible(tmp_path: Path, verb: str) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("k/old", b"old")
    target = {"put": "k/old", "put_if_absent": "k/new"}[verb]
    code = (
        "import os, sys, time, cluster.storage as s\n"
        "os.fsync = lambda _: (print('written', flush=True), time.sleep(60))\n"
        f"s.LocalStore({str(store.root)!r}).{verb}({target!r}, b'half' * 1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    assert len(list((store.root / ".tmp").iterdir())) == 1
    assert store.list("") == ["k/old"]
    assert store.get("k/old") == b"old"
    assert store.put_if_absent("k/new", b"new")


def test_foreign_files_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("t/x", b"")
    (tmp_path / "t" / "a file ~").touch()
    assert store.list("") == ["t/x"]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    store = LocalStore(tmp_path / "store")
    store.put("t/y", b"")
    (tmp_path / "store" / "t" / "link").symlink_to(tmp_path / "outside")
    for call in (store.get, lambda key: store.put(key, b""), lambda key: store.put_if_absent(key, b""), store.list):
        with pytest.raises(StoreError, match="out of the folder"):
            call("t/link/x")
    assert store.list("") == ["t/y"]


@pytest.mark.parametrize("root", ["{tmp}/file", "{tmp}/file/below", "/proc/orthoplex-store", "/sys/orthoplex-store"])
def test_an_unwritable_folder_is_explained(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    store = LocalStore(root.format(tmp=tmp_path))
    for call in (lambda: store.put("t/x", b""), lambda: store.put_if_absent("t/x", b""), lambda: probe(store)):
        with pytest.raises(StoreError) as caught:
            call()
        message = str(caught.value)
        assert str(store.root) in message and "another folder" in message and "\n" not in message
    if str(tmp_path) in store.uri:
        for read in (lambda: store.list(""), lambda: store.get("t/x")):
            with pytest.raises(StoreError, match="Not a directory"):
                read()


@pytest.mark.parametrize(
    ("function", "number", "expected"),
    [("fsync", errno.ENOSPC, "No space left.*free some space.*nothing that was stored is lost"),
     ("link", errno.EPERM, "hard links"),
     ("link", errno.EOPNOTSUPP, "hard links")],
)  # fmt: skip
def test_errors_of_the_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, expected: str
) -> None:
    def fail(*paths: Any) -> None:
        raise OSError(number, os.strerror(number), *([str(paths[0]), None, str(paths[1])] if len(paths) == 2 else []))

    store = LocalStore(tmp_path)
    monkeypatch.setattr(f"cluster.storage.local.os.{function}", fail)
    with pytest.raises(StoreError, match=expected):
        store.put_if_absent("x", b"")
    assert list((tmp_path / ".tmp").iterdir()) == [] and store.list("") == []


def irregular(folder: Path, kind: str) -> Path:
    """Something at `folder`/x that is no regular file."""
    path = folder / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path.symlink_to("x")
    return path


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "a link to itself"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    store, out = LocalStore(tmp_path / "s"), tmp_path / "out"
    store.put("y", b"whole")
    irregular(tmp_path / "s", kind)
    for call in (
        lambda: store.get("x"), lambda: store.download("x", out), lambda: store.put_if_absent("x", b"1"),
        lambda: store.get("x", 3),
    ):  # fmt: skip
        with pytest.raises(StoreError, match=r"x'? (is no regular file|leads out)|cannot (read|write) "):
            call()
    assert not out.exists() and store.list_folders("") == []
    (tmp_path / "s/x").unlink()
    assert store.list("") == ["y"] and store.put_if_absent("x", b"1")


def test_a_file_that_grew_is_not_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "s")
    store.put("v/f", b"abc")
    os.truncate(tmp_path / "s/v/f", 20 << 30)
    record = FileRecord("f", 3, "0" * 64)
    for call in (lambda: store.get("v/f", 3), lambda: download_files(store, "v", [record], tmp_path / "out")):
        with pytest.raises(IntegrityError, match="'v/f' has more than the 3 bytes that are due there; it was changed"):
            call()
    assert not (tmp_path / "out/f").exists()


WRITES: dict[str, Callable[[LocalStore, Path], Any]] = {
    "put": lambda store, _: store.put("t/x", b"x" * 10_000),
    "put_if_absent": lambda store, _: store.put_if_absent("t/new", b"x" * 10_000),
    "upload": lambda store, path: store.upload("t/x", path),
}


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_disk_that_refuses(disk: Disk, tmp_path: Path, verb: str, state: str) -> None:
    """It is named with what helps; what stood there stands, nothing half-written counts, and later writes go on."""
    store, path = LocalStore(disk.path / "store"), tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    store.put("t/x", b"before")
    filler = disk.fill() if state == "full" else disk.path
    if state == "read-only":
        disk.remount("ro")
    with pytest.raises(StoreError) as caught:
        WRITES[verb](store, path)
    reason = {"full": "No space left on device; free some space", "read-only": "Read-only file system; mount it"}[state]
    assert f"store {store.uri}: cannot write" in str(caught.value) and reason in str(caught.value)
    assert "nothing that was stored is lost" in str(caught.value)
    assert isinstance(caught.value, DiskFullError) is (state == "full")
    assert store.list("") == ["t/x"] and store.get("t/x") == b"before" and not [*(store.root / ".tmp").iterdir()]
    disk.remount("rw")
    filler.unlink() if state == "full" else None
    WRITES[verb](store, path)
    assert store.get(store.list("t/")[0]) == b"x" * 10_000


def test_deleting_needs_no_room(disk: Disk) -> None:
    store = LocalStore(disk.path / "store")
    store.put("t/x", b"x")
    disk.fill()
    store.delete("t/x")
    assert store.list("") == []


@pytest.mark.parametrize("known", ["it was read before", "it stands"])
def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    monkeypatch.setenv("ORTHOPLEX_STORE_PATIENCE_S", "0")
    store = LocalStore(tmp_path / "store", stands=known == "it stands")
    if known == "it was read before":
        store.put("t/x", b"x")
        shutil.rmtree(store.root)
    for call in (
        lambda: store.put("t/y", b""), lambda: store.put_if_absent("t/y", b""), lambda: store.get("t/x"),
        lambda: store.list("t/"), lambda: store.delete("t/x"), lambda: store.upload("t/y", Path(__file__)),
    ):  # fmt: skip
        with pytest.raises(
            StoreGoneError, match=f"^store {store.uri}: the folder is gone, and was there before.*put it"
        ):
            call()
    assert not store.root.exists()
    store.root.mkdir()
    assert store.put_if_absent("t/y", b"")  # it is back


def test_a_folder_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, away = LocalStore(tmp_path / "store"), tmp_path / "away"
    store.put("t/x", b"x")
    store.root.rename(away)
    monkeypatch.setattr("cluster.storage.retry.time.sleep", lambda _: away.exists() and away.rename(store.root))
    assert store.get("t/x") == b"x"


def test_a_reserve(disk: Disk) -> None:
    """A run sets it aside once, out of sight; it can be given up on a full disk."""
    store = LocalStore(disk.path / "store")
    probe(store)
    probe(store)
    assert store.list("") == [PROBE_KEY]
    assert store.give_up_reserve() and not store.give_up_reserve()
    before = disk.free_bytes()
    store.keep_reserve()
    assert before - disk.free_bytes() == RESERVE_BYTES
    store.give_up_reserve()
    disk.fill()
    store.keep_reserve()  # there is no room for it, and nothing is left of it
    assert not store.give_up_reserve() and not [*(store.root / ".tmp").iterdir()]
