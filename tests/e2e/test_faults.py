"""Kills at seeded random instants of a run of three tasks on two Ray nodes: it always ends as if nothing had happened.

Three instants by default, all of them with ORTHOPLEX_FAULTS=1 (`make test-faults`).
"""

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from cluster.storage import LocalStore
from orchestrator.config.run import load_config
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track
from tests.support.nodes import Nodes
from tests.support.registries import started_in_vain
from tests.support.tiny_run import REPO, command, config_file

INSTANTS = [(what, seed) for seed in range(7) for what in ("worker", "driver", "node")]
CHOSEN = INSTANTS if os.environ.get("ORTHOPLEX_FAULTS") else INSTANTS[:3]
TIMEOUT_S = 240


def start(nodes: Nodes, folder: Path, log: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["--set", f"cluster.address={nodes.cluster.address}", "--set", "cluster.max_failures=5"]
    environment = {**os.environ, **nodes.environment, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command("run", str(config_file(folder, 3, folder / "store")), *words, *more),
        cwd=REPO, env=environment, stdout=log.open("ab"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def read(folder: Path) -> RunState:
    return replay("default", "tiny", Track(LocalStore(folder / "store"), "default", "tiny").entries())


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on what happened: scores, adapters, bases."""
    track, state = Track(LocalStore(folder / "store"), "default", "tiny"), read(folder)
    files = []
    for commit in state.commits:
        manifest = track.manifest_of(commit)
        for name in ("adapter.safetensors", "bases.safetensors"):
            tensors = load(track.read_file(commit.prefix, manifest, name))
            files.append({key: (value.shape, value.tobytes()) for key, value in sorted(tensors.items())})
    scores = [state.matrix("test"), state.matrix("validation"), state.zero_shot]
    return {"state": state.status, "scores": scores, "files": files}


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What a run comes to, and how long it takes. The 200th entry of its log falls into its training."""
    folder = tmp_path_factory.mktemp("undisturbed")
    track = started_in_vain(load_config(config_file(folder, 3, folder / "store")), 194)
    started = time.monotonic()
    run = start(nodes, folder, folder / "log", "--set", "cluster.lease_s=5")
    assert run.wait(TIMEOUT_S) == 0, (folder / "log").read_text()
    took = time.monotonic() - started
    ops = [entry.op for entry in track.raw_entries()]
    assert ops[194] == "start" and ops[200] == "index" and ops[201:].count("commit") >= 1 and ops[-1] == "finish"
    assert track.indices() == [200] and ops.count("commit") == 3 and "Traceback" not in (folder / "log").read_text()
    result = outcome(folder)
    assert result["state"] == "finished" and len(result["files"]) == 6
    return result, took


@pytest.mark.parametrize(("what", "seed"), CHOSEN)
def test_a_kill_changes_nothing(
    nodes: Nodes, undisturbed: tuple[dict[str, Any], float], tmp_path: Path, what: str, seed: int
) -> None:
    expected, took = undisturbed
    instant = random.Random(f"{what} {seed}").uniform(0.15, 0.95) * took
    log = tmp_path / "log"
    run = start(nodes, tmp_path, log)
    try:
        time.sleep(instant)
        if what == "driver":
            run.kill()
            run.wait()
            run = start(nodes, tmp_path, log)
        elif what == "worker":
            while run.poll() is None and not (workers := nodes.workers()):
                time.sleep(0.2)
            if run.poll() is None:
                random.Random(seed).choice(workers).send_signal(signal.SIGKILL)
        else:
            nodes.lose_node()
            time.sleep(3)
            nodes.add_node()
        assert run.wait(TIMEOUT_S) == 0, f"{what} killed after {instant:.1f} s\n{log.read_text()}"
    finally:
        run.kill()
    assert outcome(tmp_path) == expected, f"{what} killed after {instant:.1f} s\n{log.read_text()}"
    print(json.dumps({"killed": what, "after_s": round(instant, 1), "of_s": round(took, 1)}))


@pytest.mark.skipif(not os.environ.get("ORTHOPLEX_FAULTS"), reason="minutes: `make test-faults`")
def test_an_elastic_run_goes_on_with_one_worker_and_grows_again(nodes: Nodes, tmp_path: Path) -> None:
    """Two workers, then one after a node is lost, then two; the task goes on from its checkpoints all the while."""

    def grown_to(count: int) -> None:
        entries = Track(LocalStore(tmp_path / "store"), "default", "tiny").entries
        deadline = time.monotonic() + TIMEOUT_S
        while [e.body["workers"] for e in entries() if e.op == "workers"][-1:] != [count]:
            assert time.monotonic() < deadline and run.poll() is None, log.read_text()
            time.sleep(1)

    def resumed() -> list[int]:
        return [int(step) for step in re.findall(r"kind: resume (\d+)/", log.read_text())]

    log = tmp_path / "log"
    words = ["cluster.num_workers={min: 1, max: 2}", "train.epochs=5000", "train.checkpoint_steps=20"]
    run = start(nodes, tmp_path, log, *(word for each in words for word in ("--set", each)))
    try:
        grown_to(2)
        time.sleep(15)
        nodes.lose_node()
        grown_to(1)
        time.sleep(15)
        nodes.add_node()
        grown_to(2)
        while len(resumed()) < 2 and run.poll() is None:
            time.sleep(0.5)
        run.terminate()
        assert run.wait(60) == 130, log.read_text()
    finally:
        run.kill()
    assert resumed() == sorted(set(resumed())), log.read_text()  # each time from further on
