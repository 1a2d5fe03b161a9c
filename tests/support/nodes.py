"""Two Ray nodes on this machine for all end-to-end tests that need a cluster."""

import os
import subprocess
from pathlib import Path

import psutil

from cluster import local
from cluster.processes import alive, identify
from tests.support.tiny_run import REPO, called, command


def named(process: psutil.Process, part: str) -> bool:
    """Whether a process lives, and has this in its name."""
    try:
        return part in process.name()
    except psutil.Error:
        return False


class Nodes:
    """The cluster of `cluster.local`, whose second node may be killed and replaced."""

    def __init__(self, state: Path) -> None:
        self.state, self.cluster = state, local.up(state)

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.cluster.token_path}

    def run(self, config: str, folder: Path = REPO) -> subprocess.CompletedProcess[str]:
        """`orthoplex run` on this cluster."""
        words = command("run", config, "--set", f"cluster.address={self.cluster.address}")
        return called(words, folder, **self.environment)

    def sweep(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`orthoplex sweep` on this cluster."""
        words = ("sweep", *words, "--set", f"run.cluster.address={self.cluster.address}")
        return called(command(*words), **self.environment)

    def processes(self, node: int) -> list[psutil.Process]:
        process = psutil.Process(self.cluster.processes[node].pid)
        return [process, *process.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        found = (process for node in range(2) for process in self.processes(node))
        return [process for process in found if named(process, "RayTrainWorker")]

    def lose_node(self) -> None:
        for process in reversed(self.processes(1)):
            process.kill()
        os.waitpid(self.cluster.processes[1].pid, 0)

    def add_node(self) -> None:
        pid = local.start_node(
            [f"--address={self.cluster.address}"],
            Path(self.cluster.folder) / "node1.log",
            Path(self.cluster.token_path),
        )
        self.cluster = local.LocalCluster(
            **{**vars(self.cluster), "processes": (self.cluster.processes[0], identify(pid))}
        )
        local.write(self.state, self.cluster)
        local.wait_for_nodes(self.cluster, 2)

    def end(self) -> None:
        local.down(self.state)
        assert not any(map(alive, self.cluster.processes))
        assert local.read(self.state) is None and not Path(self.cluster.folder).exists()
