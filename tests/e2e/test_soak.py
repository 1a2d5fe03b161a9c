"""Half a minute of soak on a cluster: a driver and a worker are killed and the store goes away while small tasks are
trained, and the run ends as if nothing had happened. `make soak` takes an hour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.faults import Fault
from tests.soak.outcome import outcome
from tests.soak.stream import FolderStore, write_stream
from tests.soak.supervisor import Supervised
from tests.support.nodes import Nodes
from tests.support.tiny_run import REPO, command

TASKS = 8
FAULTS = [Fault(2, 0.3, "driver"), Fault(4, 0.2, "worker"), Fault(6, 0.1, "store", away_s=1.0)]
QUICK = {"cluster": {"num_workers": 1, "lease_s": 2, "max_failures": 5}, "evaluate": {"tasks": "seen", "every": 5}}


def test_half_a_minute_of_kills_and_outages_changes_nothing(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undisturbed run has its worker in the driver's process, so it needs no Ray."""
    for name in ("ORTHOPLEX_SIGNING_KEY_FILE", "ORTHOPLEX_STATE"):
        monkeypatch.setenv(name, "")  # put back what the stores set
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    expected = FolderStore(whole / "store")
    alone = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.alone", str(write_stream(whole, TASKS, str(expected.path), **QUICK))],
        cwd=REPO, env={**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPO)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    store = FolderStore(torn / "store")
    config = write_stream(torn, TASKS, str(store.path), **QUICK)
    words = command("run", str(config), "--set", f"cluster.address={nodes.cluster.address}")
    run = Supervised(
        words, torn, lambda _: None, away=store.away, workers=lambda _: nodes.workers(),
        environment=nodes.environment,
    )  # fmt: skip
    record = run.run(FAULTS)
    assert alone.wait(120) == 0
    found = outcome(str(store.path))
    expected.use()
    undisturbed = outcome(str(expected.path))
    assert undisturbed.differences(found) == [], (torn / "log").read_text()
    assert found.status == "finished" and len(found.digests) == TASKS
    assert (record.kills, record.outages) == ({"driver": 1, "worker": 1}, 1) and record.starts >= 2
    assert found.ops["retry"] >= 1 and found.ops["start"] >= 2 and found.ops["renew"] > 3 * TASKS
