"""Which sinks a `tracking` section asks for, and what is refused before anything starts."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError
from orchestrator.sinks.config import TrackingConfig
from orchestrator.sinks.jsonl import JsonLines
from orchestrator.sinks.mlflow import MLflow
from orchestrator.sinks.opening import check_tracking, open_sinks
from orchestrator.sinks.tensorboard import TensorBoard


def test_which_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_sinks(TrackingConfig(), print).makers == {}
    asked = TrackingConfig(tensorboard="~/logs", mlflow=f"sqlite:///{tmp_path}/never.db", jsonl="~/l/f.jsonl")
    made = {kind: make() for kind, make in open_sinks(asked, print).makers.items()}
    board, server, lines = made["tensorboard"], made["mlflow"], made["jsonl"]
    assert isinstance(board, TensorBoard) and board.folder == tmp_path / "logs"
    assert isinstance(server, MLflow) and server.uri == asked.mlflow
    assert isinstance(lines, JsonLines) and lines.path == tmp_path / "l/f.jsonl"
    assert list(tmp_path.iterdir()) == []


def test_mlflow_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"tracking\.mlflow: .*pip install 'orthoplex\[mlflow\]'"):
        open_sinks(TrackingConfig(mlflow="sqlite:///never.db"), print)


@pytest.mark.parametrize(
    ("uri", "known"),
    [
        ("http://host:5000", True), ("sqlite:////x/y.db", True), ("postgresql+psycopg2://host/db", True),
        ("databricks", True), ("folder/runs", True), ("nonsense://somewhere", False), ("htp://host", False),
    ],
)  # fmt: skip
def test_uris(uri: str, known: bool) -> None:
    refused = pytest.raises(ConfigError, match=f"tracking.mlflow: '{uri}': begin it with one of http, https")
    with nullcontext() if known else refused:
        check_tracking(TrackingConfig(mlflow=uri))


def test_a_user_is_not_stored() -> None:
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        TrackingConfig(mlflow="https://me:secret@host")
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        TrackingConfig(mlflow="https://token@host")
    assert TrackingConfig.stored({"mlflow": "https://me:secret@host:5000/x"}).mlflow == "https://host:5000/x"


@pytest.mark.parametrize("key", ["tensorboard", "jsonl"])
def test_a_home_that_nobody_has(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"tracking\.{key}: '~nobody-here/x': no such home folder"):
        check_tracking(TrackingConfig.model_validate({key: "~nobody-here/x"}))
