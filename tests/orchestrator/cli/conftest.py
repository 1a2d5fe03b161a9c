"""The command line in this process, and runs to ask it about."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.run import load_config
from tests.support.command_line import LAYER, Orthoplex, Result, here


@pytest.fixture
def orthoplex(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Orthoplex:
    """Runs main() in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("ORTHOPLEX_STORE", "ORTHOPLEX_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*argv: object) -> Result:
        result = here(monkeypatch, capsys, *argv)
        assert "Traceback" not in result.err + result.out
        return result

    return call


@pytest.fixture
def refused(orthoplex: Orthoplex) -> Callable[..., tuple[int, str]]:
    """(exit code, message) of a call that fails with one message on standard error and nothing on standard output."""

    def call(*argv: object) -> tuple[int, str]:
        code, out, err = orthoplex(*argv)
        assert out == "" and err.startswith("orthoplex: ") and err.endswith("\n") and "\n\n" not in err
        assert err.count("orthoplex: ") == 1
        return code, err.removeprefix("orthoplex: ").removesuffix("\n")

    return call


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose data is at hand: two tasks of 12 rows, one layer."""
    rows = "".join(f"about {'cats' if n % 2 else 'dogs'} number {n},{'cat' if n % 2 else 'dog'}\n" for n in range(12))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + rows.replace("about", split))
    task = {"source": "files", "train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    content = {
        "name": "stream",
        "store": str(tmp_path / "store"),
        "adapter": {"target_modules": [LAYER]},
        "tasks": [{"name": name, **task} for name in ("a", "b")],
    }
    path = tmp_path / "run config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def begun(config: Path, fake_run: Callable[..., Any]) -> Any:
    """A run of that configuration with both tasks committed; its data is not what the configuration reads."""
    run = fake_run("a", "b", config=load_config(config))
    run.commit([0.9, 0.2], [0.8, 0.25], zero_shot=[0.5, 0.05])
    run.commit([0.7, 0.6], [0.7, 0.6])
    return run


@pytest.fixture
def resumable(begun: Any) -> Any:
    """The same, with the data that the configuration reads."""
    from orchestrator.run.workers import describe_data
    from trainers.data.tasks import load_task

    config = begun.config
    data = load_task(config.tasks[0], config.data, None, config.train.seed)
    begun.open(["a", "b"], [{**describe_data(data).model_dump(mode="json"), "name": name} for name in ("a", "b")])
    return begun
