"""Processes told from later ones of the same id, and those that were started with a folder in their environment."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.processes import Process, alive, descendants, identify, kill, process_table, start_time, users_of


def sleeping(**environment: str) -> subprocess.Popen[bytes]:
    """A process that runs `sleep` by now."""
    process = subprocess.Popen(["sleep", "60"], env=environment)
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.001)
    return process


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = sleeping(TOKEN=f"{tmp_path}/token", OTHER="1")
    yield process
    process.kill()
    process.wait()


def test_a_later_process_of_the_same_id_is_another_one(sleeper: subprocess.Popen[bytes]) -> None:
    found = identify(sleeper.pid)
    earlier = Process(found.pid, found.start - 1)
    assert alive(found) and not alive(earlier) and found in descendants(os.getpid())
    kill(earlier, signal.SIGKILL)
    assert sleeper.poll() is None
    kill(found, signal.SIGTERM)
    while alive(found):
        time.sleep(0.001)
    assert start_time(found.pid) == -1 and sleeper.wait() == -signal.SIGTERM  # a zombie until it is waited for
    assert not alive(identify(found.pid))


def test_who_was_started_with_a_folder(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The folder itself, or something in it, as a whole value; not this process."""
    others = [sleeping(A=f"{tmp_path}0/token"), sleeping(A=f"see {tmp_path}"), sleeping(A=str(tmp_path.parent))]
    direct = sleeping(A=str(tmp_path))
    try:
        assert {process.pid for process in users_of(tmp_path)} == {sleeper.pid, direct.pid}
        assert all(map(alive, users_of(tmp_path)))
    finally:
        for process in (*others, direct):
            process.kill()
            process.wait()
    assert users_of(tmp_path) == [identify(sleeper.pid)]


def test_the_table_is_that_of_this_boot() -> None:
    boot, _, space = process_table().partition(" ")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip() and space.startswith("pid:[")
