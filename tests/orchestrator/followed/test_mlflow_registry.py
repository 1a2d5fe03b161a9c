"""A moved alias in MLflow's model registry, read back with its own client; see `test_real_server.py` for a server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.followed.mlflow_registry import check_mlflow, mirror
from orchestrator.followed.webhook import NotToldError, moved
from orchestrator.registry.aliases import promote, rollback
from orchestrator.registry.references import Version

Mirrored = Callable[[str], None]


def mirror_all(version: Version, uri: str) -> None:
    """Promotes both versions, goes back, and finds each step in the registry at a URI."""
    from mlflow import MlflowClient

    track = version.track
    client, name = MlflowClient(tracking_uri=uri), "default.stream"

    def at_alias() -> tuple[str, dict[str, str]]:
        found = client.get_model_version_by_alias(name, "production")
        return found.version, found.tags

    first = mirror(uri, moved(track, promote(track, 1, "production", why="first")))
    number, tags = at_alias()
    assert first == f"models:/{name}/{number}" and tags["orthoplex.version"] == "1"
    assert (tags["orthoplex.run"], tags["orthoplex.task"]) == ("default/stream", "a")
    told = moved(track, promote(track, 2, "production", why="better"))
    assert mirror(uri, told) == mirror(uri, told) != first  # told twice, it is one version
    assert at_alias()[1]["orthoplex.manifest_sha256"] == version.commit.manifest_sha256
    assert mirror(uri, moved(track, rollback(track, "production"))) == first and at_alias()[0] == number
    assert len(client.search_model_versions(f"name = '{name}'")) == 2
    (model, *_) = client.search_logged_models([client.get_experiment_by_name("orthoplex/default").experiment_id])
    assert model.tags["mlflow.model.isExternal"] == "true" and model.tags["orthoplex.prefix"].startswith("t/default/")


@pytest.mark.slow  # its tables take ten seconds to make
def test_an_alias_and_its_versions(version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a database keeps artifacts beside it
    mirror_all(version, f"sqlite:///{tmp_path}/registry.db")


def test_a_server_that_is_away(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    told = moved(version.track, promote(version.track, 1, "production"))
    with pytest.raises(NotToldError, match=r"--mlflow: MlflowException: .*; the log has the move \(entry"):
        mirror("http://127.0.0.1:9", told)


def test_mlflow_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        assert name == "mlflow"

    monkeypatch.setattr("orchestrator.followed.mlflow_registry.find_spec", absent)
    with pytest.raises(ConfigError, match=r"--mlflow: .*pip install 'orthoplex\[mlflow\]'"):
        check_mlflow()
