"""The public interface: what it gives, and that nothing heavy comes with its import."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import orthoplex
from cluster.errors import ConfigError
from orchestrator.config.run import parse_config
from orthoplex.runs import config_of
from tests.support.fake_workers import finished_run

CONTENT = {
    "name": "stream", "adapter": {"target_modules": ["output.dense"]},
    "tasks": [{"name": "a", "source": "docstrings", "task": "library"}],
}  # fmt: skip


def test_configurations_of_three_kinds(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    read = parse_config(CONTENT, "test")
    assert config_of(path) == config_of(str(path)) == config_of(CONTENT) == config_of(read) == read
    assert config_of(path, ["train.epochs=7"]).train.epochs == 7
    with pytest.raises(ConfigError, match="adaptor"):
        config_of({**CONTENT, "adaptor": {}})


def test_a_finished_run_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finished_run(tmp_path, monkeypatch)
    state = orthoplex.status("stream", store=str(tmp_path))
    assert state.status == "finished" and len(state.commits) == 2
    with caplog.at_level(logging.INFO, "orthoplex"):
        assert orthoplex.run(state.config).commits == state.commits
    registry = orthoplex.Registry(str(tmp_path))
    assert [row["ref"] for row in registry.list()] == ["default/stream@v1", "default/stream@v2"]
    registry.promote("stream@v1", "production")
    registry.promote("stream@v2", "production")
    registry.rollback("stream", "production")
    assert registry.find("stream@production").commit.version == 1 and registry.verify("stream").faults == []
    assert registry.pull("stream@v2", tmp_path / "pulled") > 0 and (tmp_path / "pulled/manifest.json").is_file()


def test_importing_it_imports_nothing_else(tmp_path: Path) -> None:
    """Neither does listing; a run's state needs no torch, and nothing here the command line."""
    code = (
        "import sys, orthoplex\n"
        "assert not {'cluster', 'orchestrator', 'trainers', 'torch', 'ray'} & {*sys.modules}\n"
        "assert dir(orthoplex) == orthoplex.__all__ and orthoplex.__version__\n"
        "orthoplex.Registry('store').list(), orthoplex.run, orthoplex.load\n"
        "assert not {'torch', 'ray', 'transformers', 'typer', 'rich', 'matplotlib'} & {*sys.modules}\n"
        "orthoplex.Predictor\n"
        "assert 'torch' in sys.modules\n"
        "assert not {'typer', 'rich', 'matplotlib', 'optuna', 'deepspeed'} & {*sys.modules}\n"
        "try:\n    orthoplex.nothing\nexcept AttributeError as error:\n    assert 'nothing' in str(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
