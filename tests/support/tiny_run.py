"""A run of a minute: MiniLM, docstrings, two workers; and the command line as a user calls it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
HURRY = """
from orchestrator.cli import main as cli
from orchestrator.run import driver_log

renewed = driver_log.DriverLog._renewed

def and_soon_again(log):
    renewed(log)
    driver_log.LEAST_WAIT_S = 0.01 if log.state.head.seq < 640 else 5.0

driver_log.DriverLog._renewed, driver_log.RENEWALS, driver_log.LEAST_WAIT_S = and_soon_again, 10**5, 0.01
cli.main()
"""
TASKS = [{"name": name, "source": "docstrings", "task": name} for name in ("kind", "area", "library")]


def config_file(folder: Path, tasks: int, store: Path) -> Path:
    content = {
        "name": "tiny",
        "store": str(store),
        "model": {"name": "minilm", "max_length": 16},
        "adapter": {
            "target_modules": ["output.dense"],
            "max_rank": 4,
            "threshold": 0.9,
            "orthogonality": {"side": "both", "energy": 0.6},
        },
        "train": {"epochs": 2, "batch_size": 20, "warmup_steps": 2, "learning_rate": 5e-3, "logging_steps": 2}
        | {"checkpoint_steps": 2},
        "data": {"max_train_rows": 50, "max_validation_rows": 20, "max_test_rows": 30},
        "cluster": {"num_workers": 2},
        "tasks": TASKS[:tasks],
    }
    path = folder / f"tiny{tasks}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


def hurried(*arguments: str) -> list[str]:
    """A command whose driver renews its lease all the time, until its log is as long as one of hours."""
    return [sys.executable, "-c", HURRY, *arguments]


def call(*arguments: str, folder: Path = REPO) -> subprocess.CompletedProcess[str]:
    return called(command(*arguments), folder)


def called(words: list[str], folder: Path = REPO, **more: str) -> subprocess.CompletedProcess[str]:
    """The end of a command in a folder, with `more` in its environment."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), **more}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)


Until = Callable[[str], None]


@contextmanager
def following(words: list[str]) -> Iterator[tuple["subprocess.Popen[str]", Until]]:
    """A command in progress, and a function that reads its output up to a line that holds a string."""
    with subprocess.Popen(
        words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        seen: list[str] = []

        def until(part: str) -> None:
            for line in process.stdout or ():
                seen.append(line)
                if part in line:
                    return
            pytest.fail(f"no {part!r} in:\n" + "".join(seen) + (process.stderr.read() if process.stderr else ""))

        try:
            yield process, until
        finally:
            process.kill()
