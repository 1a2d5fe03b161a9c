"""A Ray cluster of two nodes on this machine, to try `orthoplex submit` and `ray job submit` on.

    python -m cluster.local up | down

`up` writes down each process it started, by id and start time; `down` ends exactly those and what they started, so that
other Rays on this machine are left alone, as `ray stop` would not. Ray's own servers listen on every interface,
whatever address they are given, so the cluster asks for a token, a new one each time, unless RAY_AUTH_MODE is set.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import ConfigError, OrthoplexError
from cluster.processes import Process, alive, descendants, identify, kill
from cluster.session import write_secret

STATE = Path(".orthoplex/cluster.json")
HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 512 << 20  # per node
# Nodes of one machine share Ray's folder, and with it what a job uploaded: one that gets it later unpacks it again over
# one that works in it. Ray has no option for that folder, so `ray start` is run with another name for it per node.
OWN_FILES = (
    "import os, ray._private.ray_constants as names; names.DEFAULT_RUNTIME_ENV_DIR_NAME += f'_{os.getpid()}'; "
    "from ray.scripts.scripts import main; main()"
)
START_TIMEOUT_S, STOP_TIMEOUT_S, CHILDREN_TIMEOUT_S = 90.0, 20.0, 3.0


@dataclass(frozen=True)
class LocalCluster:
    """What `up` started: a Ray address, the URL of its dashboard and job server, a folder with its logs, its token."""

    address: str
    dashboard: str
    folder: str
    token_path: str
    processes: tuple[Process, ...]


def up(state: Path = STATE, nodes: int = 2) -> LocalCluster:
    """Starts a head and `nodes` − 1 further nodes, and waits until the job server and all nodes answer.

    Raises:
        ConfigError: a cluster that `state` names is running.
        OrthoplexError: a node does not start; nothing is left behind.
    """
    before = read(state)
    if before and any(map(alive, before.processes)):
        raise ConfigError(f"{state}: a local cluster is running at {before.dashboard}; end it with `make cluster-down`")
    if before:
        down(state)
    gcs, dashboard = free_port(6379), free_port(8265)
    folder = tempfile.mkdtemp(prefix="orthoplex-cluster-", dir="/tmp")
    head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port(10001)}"]
    head += ["--include-dashboard=true", f"--dashboard-host={HOST}"]
    head += [f"--temp-dir={folder}/r"]  # Ray opens its folder to everybody, but not the one around it
    token = write_token(state.with_suffix(".token"))
    started = LocalCluster(f"{HOST}:{gcs}", f"http://{HOST}:{dashboard}", folder, str(token), ())
    write(state, started)
    try:
        for index in range(nodes):
            words = head if index == 0 else [f"--address={started.address}"]
            pid = start_node(words, Path(folder) / f"node{index}.log", token)
            started = LocalCluster(**{**vars(started), "processes": (*started.processes, identify(pid))})
            write(state, started)
            wait_for_nodes(started, index + 1)
    except BaseException:
        down(state)
        raise
    return started


def down(state: Path = STATE) -> list[Process]:
    """Ends the processes that `state` names and all that they started, and removes their folder. Returns the former."""
    cluster = read(state)
    if cluster is None:
        return []
    living = [process for process in cluster.processes if alive(process)]
    descended = [child for process in living for child in descendants(process.pid)]
    for process in reversed(living):
        kill(process, signal.SIGTERM)
    wait_until_gone(living, STOP_TIMEOUT_S)
    wait_until_gone(descended, CHILDREN_TIMEOUT_S)
    for process in [*living, *descended]:
        kill(process, signal.SIGKILL)
    wait_until_gone([*living, *descended], STOP_TIMEOUT_S)
    shutil.rmtree(cluster.folder, ignore_errors=True)
    Path(cluster.token_path).unlink(missing_ok=True)
    state.unlink(missing_ok=True)
    return living


def start_node(words: list[str], log: Path, token: Path) -> int:
    """Starts `ray start --block` in a session of its own; returns its process id. All that it starts ends with it."""
    cpus = max(1, (os.cpu_count() or 1) // 2)
    common = ["--block", "--disable-usage-stats", f"--node-ip-address={HOST}", f"--num-cpus={cpus}"]
    common += [f"--dashboard-agent-listen-port={free_port(52365)}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    command = [sys.executable, "-c", OWN_FILES, "start", *words, *common]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True, cwd=log.parent,
            env=node_environment(os.environ, token),
        )  # fmt: skip
    return process.pid


def node_environment(environment: Mapping[str, str], token: Path) -> dict[str, str]:
    """This environment without variables that point to other clusters or to source folders; `python` is this Python.

    RAY_AUTH_MODE is always set. Otherwise files in ~/.ray would decide whether Ray uses token authentication.
    """
    dropped = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "PYTHONPATH")
    kept = {key: value for key, value in environment.items() if key not in dropped}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {"RAY_AUTH_MODE": "token", **kept, "RAY_AUTH_TOKEN_PATH": str(token), "PATH": path}


def write_token(path: Path) -> Path:
    """Writes a new token to a file that only this user can read; returns the file's absolute path."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_secret(path)
    return path


def wait_for_nodes(cluster: LocalCluster, nodes: int) -> None:
    """Waits until the job server answers and counts `nodes` living nodes.

    Raises:
        OrthoplexError: a node's process ended, or START_TIMEOUT_S went by; the message has the end of its log.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while living_nodes(cluster) < nodes:
        if time.monotonic() > deadline or not all(map(alive, cluster.processes)):
            log = Path(cluster.folder) / f"node{nodes - 1}.log"
            tail = "\n  ".join(log.read_text("utf-8", "replace").splitlines()[-8:])
            raise OrthoplexError(f"Ray node {nodes} of the local cluster did not start:\n  {tail}")
        time.sleep(0.5)


def living_nodes(cluster: LocalCluster) -> int:
    """The number of nodes that are alive by the dashboard; 0 if it does not answer yet."""
    url = f"{cluster.dashboard}/nodes?view=summary"
    bearer = {"Authorization": f"Bearer {Path(cluster.token_path).read_text()}"}
    request = urllib.request.Request(url, headers=bearer)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            summary = json.load(answer)["data"]["summary"]
    except (OSError, ValueError, KeyError):
        return 0
    return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)


def free_port(preferred: int) -> int:
    """`preferred` if nothing listens there, else any free port of this machine."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OrthoplexError(f"no free port on {HOST}; end something that listens there")


def wait_until_gone(processes: list[Process], timeout_s: float) -> None:
    """Returns when none of the processes is alive, or after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while any(map(alive, processes)) and time.monotonic() < deadline:
        for process in processes:
            reap(process.pid)
        time.sleep(0.1)


def reap(pid: int) -> None:
    """Collects the exit status of an ended child of ours; nothing for other processes."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def read(state: Path) -> LocalCluster | None:
    """The cluster that `up` recorded; None if there is no file."""
    try:
        content = json.loads(state.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return LocalCluster(**{**content, "processes": tuple(Process(**each) for each in content["processes"])})


def write(state: Path, cluster: LocalCluster) -> None:
    """Replaces the state file, whole or not at all."""
    state.parent.mkdir(parents=True, exist_ok=True)
    fresh = state.with_suffix(".tmp")
    fresh.write_text(json.dumps(asdict(cluster), indent=2) + "\n", "utf-8")
    fresh.replace(state)


def main() -> None:
    """`up` prints how to use the cluster; `down` says what was ended."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--state", type=Path, default=STATE, help=f"file that records what was started ({STATE})")
    arguments = parser.parse_args()
    try:
        if arguments.what == "up":
            started = up(arguments.state)
            print(f"two Ray nodes at {started.address}; dashboard and job server: {started.dashboard}")
            print("to use it:")
            print(f"  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={started.token_path}")
            print(f"  export RAY_API_SERVER_ADDRESS={started.dashboard}")
            print("  orthoplex submit configs/quickstart.yaml --set store=$PWD/.orthoplex/store")
        else:
            print(f"ended {len(down(arguments.state))} nodes")
    except OrthoplexError as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
