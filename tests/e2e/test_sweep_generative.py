"""A sweep over tasks of the second quickstart end to end: a pool of workers, docs-lm, a learning rate of one task."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from cluster.storage import LocalStore
from orchestrator.track.track import Track
from tests.support.nodes import Nodes
from tests.support.tiny_run import REPO, call

RATE = "tasks.1.training.learning_rate"
QUICKSTART = REPO / "configs" / "quickstart_llm.yaml"
TASKS = [{**task, "decoding": {"max_new_tokens": 8}} for task in yaml.safe_load(QUICKSTART.read_text())["tasks"][:2]]


@pytest.fixture(scope="module")
def swept(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder, the result and what was printed of two trials: they share the first of two tasks."""
    folder = tmp_path_factory.mktemp("generative")
    content = {
        "name": "answers",
        "base": str(QUICKSTART),
        "run": {
            "store": str(folder / "store"),
            "cluster": {"num_workers": 1},
            "train": {"epochs": 1, "batch_size": 8, "max_steps": 3, "learning_rate": 5.0e-4},
            "data": {"max_train_rows": 64, "max_validation_rows": 8, "max_test_rows": 4},
            "tasks": [TASKS[0], {**TASKS[1], "training": {"max_steps": 2}}],
        },
        "budget": {"trials": 2},
        "search": {"algorithm": "grid", "first": [], "space": {RATE: {"choice": [2.0e-3, 2.0e-2]}}},
        "stopping": {"asha": None, "dominated": False},
        "choice": {"rule": "best_accuracy"},
        "concurrent": 2,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    words = [str(folder / "sweep.yaml"), "--output", str(folder / "out")]
    ran = nodes.sweep(*words)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stdout + ran.stderr
    return folder, json.loads(call("sweep", *words, "--show", "--json").stdout), ran.stdout


def commits(folder: Path, run: str) -> list[dict[str, Any]]:
    entries = Track(LocalStore(folder / "store"), "default", run).entries()
    return [entry.body for entry in entries if entry.op == "commit"]


def test_the_recommendation_is_by_the_primary_metrics(swept: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, said = swept
    assert [trial["status"] for trial in found["trials"]] == ["finished", "finished"]
    for trial in found["trials"]:
        last = commits(folder, trial["run"])[-1]["validation"]
        primary = [score["metrics"][task["metrics"][0]] for score, task in zip(last, TASKS, strict=True)]
        assert primary == pytest.approx([score["correct"] / score["rows"] for score in last])
        assert trial["aa"] == pytest.approx(fmean(primary)) and 0 < trial["aa"] < 1
    best = max(found["trials"], key=lambda trial: (trial["aa"], -trial["parameters"]))
    assert found["recommended"] == best["number"] and f"recommended: trial {best['number']} (tasks.1 learn" in said
    chosen = yaml.safe_load((folder / "out" / "recommended.yaml").read_text())
    assert chosen["tasks"][1]["training"] == {"learning_rate": best["values"][RATE], "max_steps": 2}
    assert chosen["train"]["learning_rate"] == 5e-4 and "training" not in chosen["tasks"][0]


def test_the_first_task_is_trained_once_and_the_second_with_its_own_rate(
    swept: tuple[Path, dict[str, Any], str],
) -> None:
    folder, found, _ = swept
    firsts, seconds = zip(*(commits(folder, trial["run"]) for trial in found["trials"]), strict=True)
    assert sorted("forked_from" in first for first in firsts) == [False, True]
    assert len({first["manifest_sha256"] for first in firsts}) == 1
    assert len({second["manifest_sha256"] for second in seconds}) == 2
    assert {trial["values"][RATE] for trial in found["trials"]} == {2e-3, 2e-2}
