"""What `make cluster-down` ends: the processes that were written down, and no others."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.local import LocalCluster, down, free_port, node_environment, up, write, write_token
from cluster.processes import Process, alive, descendants, identify

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
PARENT = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEP!r})"]


def test_down_ends_what_was_written_down_and_its_children(tmp_path: Path) -> None:
    ours, other = subprocess.Popen(PARENT), subprocess.Popen(SLEEP)
    try:
        deadline = time.monotonic() + 20
        while not (children := descendants(ours.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        folder = tmp_path / "folder"
        folder.mkdir()
        reused = Process(other.pid, identify(other.pid).start - 1)  # the id of another process by now
        state = tmp_path / "state.json"
        write(state, LocalCluster("a", "b", str(folder), str(tmp_path / "token"), (identify(ours.pid), reused)))
        expected = identify(ours.pid)
        assert down(state) == [expected]
        assert children and not any(map(alive, children)) and ours.wait(timeout=5) is not None
        assert other.poll() is None
        assert not folder.exists() and not state.exists()
    finally:
        ours.kill(), other.kill()
        ours.wait(), other.wait()


def test_down_without_a_cluster_does_nothing(tmp_path: Path) -> None:
    assert down(tmp_path / "state.json") == []


def test_a_second_cluster_is_refused(tmp_path: Path) -> None:
    me = subprocess.Popen(SLEEP)
    try:
        write(tmp_path / "state.json", LocalCluster("a", "http://b", str(tmp_path / "f"), "t", (identify(me.pid),)))
        with pytest.raises(ConfigError, match="make cluster-down"):
            up(tmp_path / "state.json")
    finally:
        me.kill()
        me.wait()
    assert not alive(identify(me.pid))


def test_nodes_know_no_other_cluster_and_this_python() -> None:
    made = node_environment({"RAY_ADDRESS": "x", "PYTHONPATH": "/src", "PATH": "/bin", "A": "1"}, Path("/t"))
    assert made == {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/t", "A": "1", "PATH": f"{Path(sys.executable).parent}:/bin"
    }  # fmt: skip
    assert node_environment({"RAY_AUTH_MODE": "disabled"}, Path("/t"))["RAY_AUTH_MODE"] == "disabled"


def test_tokens_are_new_and_private(tmp_path: Path) -> None:
    first = write_token(tmp_path / "a").read_text()
    second = write_token(tmp_path / "a")
    assert second.read_text() != first and len(first) == 64 and second.stat().st_mode & 0o777 == 0o600


def test_free_ports() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert free_port(taken.getsockname()[1]) != taken.getsockname()[1]
