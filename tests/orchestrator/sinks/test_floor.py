"""Sinks are the lowest floor: they know `cluster` and their own configuration, and import no tracker before a run."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES = sorted((ROOT / "orchestrator" / "sinks").glob("*.py"))


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return whole | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_what_they_know_of_the_product(path: Path) -> None:
    ours = {name for name in imported(path) if name.partition(".")[0] in ("orchestrator", "trainers", "cluster")}
    assert all(name.startswith(("cluster.", "orchestrator.sinks.")) for name in ours), ours


def test_nothing_heavy_is_imported() -> None:
    names = [f"orchestrator.sinks.{path.stem}" for path in MODULES if path.stem != "__init__"]
    heavy = {"mlflow", "ray", "tensorboardX", "torch", "wandb"}
    code = f"import {', '.join(names)}, sys; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert len(names) == 8 and done.stdout.strip() == ""
