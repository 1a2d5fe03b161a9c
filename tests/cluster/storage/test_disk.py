"""What a disk refuses: full, read-only or absent, named with what helps."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cluster.errors import ConfigError, StoreError
from cluster.storage.disk import (
    STATE_VARIABLE,
    DiskFullError,
    Temporary,
    TemporaryRefusedError,
    is_of,
    of_system,
    refusal,
    state_folder,
    unforeseen,
    writing,
)
from cluster.temporary import temporary
from tests.support.disks import Disk

HOST = socket.gethostname()


def failed(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (failed(errno.ENOSPC), "x: No space left on device; free some space there, or go"),
        (failed(errno.EROFS, "/d/f"), "x: Read-only file system; mount it for writing, or go"),
        (failed(errno.EMFILE), "x: Too many open files; go"),
        (OSError("odd"), "x: odd; go"),
        (OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]"), "x: No space left on device; free"),
    ],
)
def test_refusals(error: OSError, said: str) -> None:
    found = refusal("x", error, "go")
    assert str(found).startswith(said)
    assert isinstance(found, DiskFullError) is (error.errno == errno.ENOSPC)


def test_errors_of_libraries() -> None:
    told = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert of_system(told).errno == errno.ENOSPC
    assert of_system(SafetensorError("bad header")).errno is None
    assert of_system(failed(errno.EIO)).errno == errno.EIO


def test_other_errors_stay() -> None:
    with pytest.raises(ConnectionResetError), writing("x", "go"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(StoreError, match=r"^cannot write x: Permission denied; give this user"), writing("x", "go"):
        raise failed(errno.EACCES)


def test_a_temporary_folder_on_a_full_disk(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself would go to /tmp without a word."""
    monkeypatch.setenv("TMPDIR", str(disk.path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    said = rf"^temporary files in TMPDIR='{disk.path}' on {HOST}: No space left on device; free some.*, or name another"
    with Temporary("x-") as folder:
        assert Path(folder).parent == disk.path
    with pytest.raises(TemporaryRefusedError, match=said), Temporary("x-") as folder:
        disk.fill()
        (Path(folder) / "data").write_bytes(b"x" * 10_000)
    assert [path.name for path in disk.path.iterdir()] == [".filler"]
    with pytest.raises(TemporaryRefusedError, match=said):
        Temporary("x-")
    disk.remount("ro")
    with pytest.raises(TemporaryRefusedError, match=r"^temporary files in TMPDIR=.*Read-only file system; mount it"):
        Temporary("x-")


def test_an_error_of_another_disk_stays(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(disk.path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(OSError, match="Errno 2") as caught, Temporary("x-"):
        (tmp_path / "absent" / "file").open()
    assert not is_of(caught.value, disk.path)
    with pytest.raises(FileNotFoundError), Temporary("x-") as folder:
        (Path(folder) / "absent").open()  # nor is this one of the disk
    with pytest.raises(TemporaryRefusedError, match="No such file"), Temporary("x-") as folder:
        shutil.rmtree(folder)  # as what cleans /tmp does
        (Path(folder) / "data").write_bytes(b"")
    with pytest.raises(OSError, match="Errno 28"), Temporary("x-"):
        raise failed(errno.ENOSPC)  # there is room in the folder, so it is of another


@pytest.mark.parametrize("variable", ["TMPDIR", "TEMP"])
def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    said = rf"^temporary files in {variable}='{tmp_path}/gone' on {HOST}: No such.*; make that folder, or name.*TMPDIR"
    with pytest.raises(ConfigError, match=said):
        Temporary("x-")


def test_all_temporary_folders_tell(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of commands and ranks are made by `cluster.temporary`."""
    monkeypatch.setenv("TMPDIR", str(disk.path / "gone"))
    with pytest.raises(ConfigError, match=r"TMPDIR=.*No such file"):
        temporary("verify")
    said = f"^temporary files in {disk.path} on .*: No space left"
    with pytest.raises(TemporaryRefusedError, match=said), temporary("rank", below=disk.path) as folder:
        disk.fill()
        (Path(folder) / "data").write_bytes(b"x" * 10_000)


def test_no_usable_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', …]")

    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr("cluster.storage.disk.USUAL", "/proc/none")
    with pytest.raises(ConfigError, match=r"^temporary files in /proc/none on .*: No such file.*TMPDIR"):
        Temporary("x-")


def test_an_error_that_nobody_foresaw(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the file; without one, the usual places that are full."""
    monkeypatch.setenv("TMPDIR", str(disk.path))
    monkeypatch.chdir(tmp_path)
    assert "cannot write /a/b: Read-only" in str(unforeseen(failed(errno.EROFS, "/a/b")))
    assert "none of the usual places is full now" in str(unforeseen(failed(errno.ENOSPC)))
    disk.fill()
    assert f"full now: temporary files in TMPDIR='{disk.path}': No" in str(unforeseen(failed(errno.ENOSPC)))
    assert unforeseen(failed(errno.EPIPE)) is None


def test_a_home_that_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path))
    assert state_folder() == tmp_path
    monkeypatch.delenv(STATE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_folder() == tmp_path / "home" / ".cache" / "orthoplex"


def test_a_user_whom_nobody_knows(tmp_path: Path) -> None:
    """Neither HOME nor an entry in the user database: the message says what to set; with it the command goes on."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    code = (
        "from cluster.errors import OrthoplexError; from orchestrator.log.entry import actor\n"
        "from cluster.storage.disk import state_folder; from trainers.data.generative.cache import cache_folder\n"
        "print(actor())\n"
        "for each in (state_folder, cache_folder):\n"
        "    try: print(each())\n"
        "    except OrthoplexError as error: print(error)\n"
    )
    reads = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # it lies in root's home here
    command = ["setpriv", "--reuid", "54321", "--clear-groups", *reads, sys.executable, "-c", code]
    bare = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}

    def said(**more: str) -> list[str]:
        done = subprocess.run(command, check=True, env={**bare, **more}, cwd="/", capture_output=True, text=True)
        return done.stdout.splitlines()

    actor, *without = said()
    assert actor.startswith("uid54321@")
    assert without == ["ORTHOPLEX_STATE: this user has no home folder; name a folder there"] * 2
    assert said(ORTHOPLEX_STATE="/state")[1:] == ["/state", "/state/data"]
