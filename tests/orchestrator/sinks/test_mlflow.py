"""What is particular to MLflow: a database is shared, and a server may be away."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.sinks.base import Sinks
from orchestrator.sinks.mlflow import MLflow
from tests.support.places import RUN, Server, follow


def test_another_store_has_runs_of_its_own(database: Path, tmp_path: Path) -> None:
    """In MLflow, which teams share."""
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(database.read_bytes())
    place = Server(f"sqlite:///{copy}")
    follow(place, replace(RUN, name="it's"), [1])
    follow(place, replace(RUN, name="it's", store="/s/two"), [2])
    with pytest.raises(AssertionError, match="a second run"):
        place.read()


def test_a_server_that_is_away() -> None:
    """One warning, within seconds."""
    said: list[str] = []
    Sinks({"mlflow": lambda: MLflow("http://127.0.0.1:9")}, said.append).start(RUN).log({"aa": 1.0}, step=1)
    assert len(said) == 1 and "tracking.mlflow" in said[0]
