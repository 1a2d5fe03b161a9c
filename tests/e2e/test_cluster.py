"""A run submitted to two Ray nodes on this machine: stopped in the middle, submitted again, finished."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.local import LocalCluster
from tests.support.nodes import Nodes
from tests.support.tiny_models import save_tiny

REPO = Path(__file__).resolve().parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "ORTHOPLEX_", "AWS_"))}
ENVIRONMENT |= {"PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
CONFIG = {
    "name": "submitted",
    "model": {"name": "minilm", "max_length": 16},
    "adapter": {"target_modules": ["output.dense"], "max_rank": 4},
    "train": {"epochs": 2000, "batch_size": 20, "logging_steps": 2, "checkpoint_steps": 2},
    "data": {"max_train_rows": 50, "max_validation_rows": 20, "max_test_rows": 30},
    "cluster": {"num_workers": 2},
    "tasks": [{"name": "kind", "source": "docstrings", "task": "kind"}],
}


@pytest.fixture(scope="module")
def cluster(nodes: Nodes) -> LocalCluster:
    ENVIRONMENT.update(nodes.environment)
    return nodes.cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory of its own: the packages, a configuration, and a store elsewhere."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("orchestrator", "trainers", "cluster"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    store = tmp_path_factory.mktemp("store")
    (folder / "run.yaml").write_text(yaml.safe_dump({**CONFIG, "store": str(store)}))
    return folder


def words(cluster: LocalCluster, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments, "--address", cluster.dashboard]


def call(cluster: LocalCluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(cluster, *arguments),
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_without_the_token_nothing_is_done(cluster: LocalCluster, folder: Path) -> None:
    bare = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("RAY_AUTH")}
    looked = subprocess.run(
        words(cluster, "jobs", "list"), cwd=folder, env={**bare, "RAY_AUTH_MODE": "disabled"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert looked.returncode == 2 and "asks for a token" in looked.stderr, looked.stderr


def test_submit_stop_and_resume(cluster: LocalCluster, folder: Path) -> None:
    begun = words(cluster, "submit", "run.yaml", "--name", "first")
    with subprocess.Popen(
        begun, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        seen = []
        for line in job.stdout:
            seen.append(line)
            if "kind: train" in line:
                break
        else:
            pytest.fail("".join(seen))
        stopped = call(cluster, folder, "jobs", "stop", "first")
        assert stopped.returncode == 0 and stopped.stdout == "job first: stopped\n", stopped.stderr
        rest, message = job.communicate(timeout=60)
        assert job.returncode == 130 and "orthoplex: interrupted; 0 of 1 tasks" in rest, rest + message
    state = json.loads(call(cluster, folder, "jobs", "status", "first", "--json").stdout)
    assert (state["status"], state["exit_code"], state["run"]) == ("STOPPED", 130, "default/submitted")

    again = subprocess.Popen(
        words(cluster, "submit", "run.yaml", "--name", "second"),
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with again:
        resumed = next((line for line in again.stdout or () if "resume" in line), "")
        again.kill()  # following ends, the job goes on
    assert re.search(r"\[1/1\] kind: resume \d+/6000", resumed), resumed
    assert json.loads(call(cluster, folder, "jobs", "status", "second", "--json").stdout)["status"] == "RUNNING"
    assert call(cluster, folder, "jobs", "stop", "second").returncode == 0


def test_a_job_on_both_nodes_goes_on_to_the_end_with_a_relative_model_folder(
    cluster: LocalCluster, folder: Path, tmp_path: Path
) -> None:
    """Begun beside the model, with its configuration elsewhere; gone on with as a job, in whose copy of another
    directory the same path leads to the same model; refused where it leads nowhere. The log keeps it as written."""
    save_tiny("llama", folder / "models/base")
    model = {"name": "models/base", "task_type": "CAUSAL_LM", "max_length": 32}
    adapter = {"target_modules": ["down_proj"], "max_rank": 4}
    tasks = [{"name": name, "source": "docstrings", "task": name} for name in ("kind", "area")]
    own = {"name": "beside", "store": str(tmp_path / "store"), "model": model, "adapter": adapter, "tasks": tasks[:1]}
    content = {**CONFIG, **own, "train": {**CONFIG["train"], "epochs": 1}}  # type: ignore[dict-item]
    (tmp_path / "begun.yaml").write_text(yaml.safe_dump(content))
    environment = {**ENVIRONMENT, "RAY_ADDRESS": cluster.address, "HF_HUB_OFFLINE": "1"}

    def run(where: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", "run", str(tmp_path / "begun.yaml")], cwd=where,
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    begun = run(folder)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    elsewhere = folder.rename(tmp_path / "elsewhere")
    try:
        longer = {**content, "train": CONFIG["train"], "tasks": tasks}
        (elsewhere / "go_on.yaml").write_text(yaml.safe_dump(longer))
        gone_on = call(cluster, elsewhere, "submit", "go_on.yaml", "--set", "train.epochs=1")
    finally:
        elsewhere.rename(folder)
    assert gone_on.returncode == 0, gone_on.stdout + gone_on.stderr
    assert "default/beside: finished, 2 of 2 tasks" in gone_on.stdout and "succeeded" in gone_on.stdout
    listed = json.loads(call(cluster, folder, "jobs", "list", "--json").stdout)
    assert listed[0]["run"] == "default/beside" and listed[0]["exit_code"] == 0
    (tmp_path / "begun.yaml").write_text(yaml.safe_dump({**content, "tasks": [*tasks, {**tasks[0], "name": "third"}]}))
    lost = run(tmp_path)
    assert lost.returncode == 2 and "model.name: 'models/base' cannot be loaded" in lost.stderr, lost.stderr
    entries = [json.loads(path.read_text()) for path in (tmp_path / "store/t/default/beside/log").glob("*.json")]
    assert {e["config"]["model"]["name"] for e in entries if e["op"] == "open"} == {"models/base"}


def test_doctor_sees_both_nodes(cluster: LocalCluster) -> None:
    looked = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", "--address", cluster.address, "--json"],
        cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = json.loads(looked.stdout)
    assert sum("same packages as here" in finding["what"] for finding in found) == 2, looked.stdout
