"""Real cells: a small decoder, two tasks of a few rows, on the CPU, in a process of the benchmark's own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.methods.rows import unpacked
from tests.support.task_files import many, write_jsonl
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def tiny_plan(folder: Path) -> dict[str, Any]:
    """A plan over a model and files in the folder."""
    save_tiny("llama", folder / "base")
    tasks = {}
    for name, labels in (("first", "ab"), ("second", "cd")):
        rows = write_jsonl(folder / f"{name}.jsonl", many(24, name, labels))
        tested = write_jsonl(folder / f"{name}_test.jsonl", many(6, f"{name} test", labels))
        tasks[name] = {"source": "files", "train": str(rows), "test": str(tested)}
    return {
        "ours": "ours", "tune_on": "order",
        "common": {
            "model": {"name": str(folder / "base"), "task_type": "CAUSAL_LM", "max_length": 16},
            "train": {"epochs": 1, "batch_size": 12, "warmup_steps": 0}, "deepspeed": {"zero_stage": 0},
            "data": {"max_validation_rows": 4}, "evaluate": {"keep_rows": True},
        },
        "tasks": tasks,
        "streams": {"order": {"group": "tiny", "tasks": [*tasks], "names": {"outputs": ["o_proj"]}, "olora": 512}},
        "methods": {
            "ours": {
                "label": "Ours",
                "settings": {"adapter": {"target_modules": "$outputs", "max_rank": 2, "threshold": 0.0}},
            },
            "lora": {
                "label": "LoRA", "settings": {"adapter": {"method": "lora", "target_modules": "$outputs", "rank": 2}},
                "tune": [{"train.learning_rate": 1e-3}, {"train.learning_rate": 1e30}],
            },
        },
    }  # fmt: skip


def test_two_methods_are_measured_and_tuned(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(tiny_plan(tmp_path)))
    words = ["--config", "plan.yaml", "--results", "found.jsonl", "--cpu", "--work", "work", "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.methods", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:1"},  # where no Ray is: none is needed
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ours on order, seed 0: AA" in done.stdout and "3 cells ended" in done.stdout
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    (chosen,) = [line for line in found if "chosen" in line]
    assert chosen["chosen"] == {"train.learning_rate": 1e-3} and len(chosen["tried"]) == 2
    measured = [line for line in found if "aa" in line and line["values"].get("train.learning_rate") != 1e30]
    assert {line["method"] for line in measured} == {"ours", "lora"}
    for line in measured:
        assert len(line["test"]) == 2 and None not in line["test"][1] and line["rows"] == [6, 6]
        last = [sum(unpacked(line["correct"][task], 6)) / 6 for task in line["tasks"]]
        assert last == pytest.approx(line["test"][1], abs=1e-6) and line["aa"] == pytest.approx(sum(last) / 2, abs=1e-6)
        assert line["kept"] > 0 and line["stored_bytes"] > 0 and line["resumed"] == 0 and line["peak_gpu_bytes"] is None
    assert not [*(tmp_path / "work").glob("ours-*")]  # the store is removed
