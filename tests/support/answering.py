"""Finished runs of generative tasks whose answers are kept, made without Ray."""

from pathlib import Path
from typing import Any

from orchestrator.config.run import RunConfig, parse_config
from orchestrator.run.controller import Controller
from tests.support.fake_workers import FakeWorkers, Told


def generative(store: Path, names: str = "abc", **sections: Any) -> RunConfig:
    """Generative tasks; one named x is classification."""
    tasks = [
        {"name": name, "source": "docstrings", "task": "library"}
        if name == "x"
        else {"name": name, "source": "docstrings", "task": "signature", "metrics": ["rouge_l", "nll"]}
        for name in names
    ]
    content = {
        "name": "stream", "adapter": {"target_modules": ["dense"]}, "store": str(store),
        "model": {"name": "docs-lm", "task_type": "CAUSAL_LM"}, "evaluate": {"keep_answers": 3}, **sections,
    }  # fmt: skip
    return parse_config({**content, "tasks": tasks}, "test")


def says(task: str, row: int, learned: int) -> tuple[str, dict[str, float]]:
    """Each row is forgotten with each task, row 1 fastest; `nll` comes first to see that the primary metric leads."""
    return f"{task}{row} after {learned}", {"nll": 2.0, "rouge_l": 1 - learned * (0.3 if row == 1 else 0.1)}


def done(given: RunConfig, **workers: Any) -> Controller:
    controller = Controller(given, Told(), workers=FakeWorkers(given, says=says, **workers))
    controller.run()
    return controller
