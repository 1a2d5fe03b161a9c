"""Folders that have the name of one of our packages: which of them Python would import."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.names import HOME, refuse_taken, taken
from cluster.resources import ClusterConfig
from cluster.session import ray_session


def test_what_python_would_import_is_taken(tmp_path: Path) -> None:
    assert taken(tmp_path) is None and taken(HOME) is None
    (tmp_path / "trainers").mkdir()
    assert taken(tmp_path) is None  # no package: Python goes on to ours
    (tmp_path / "trainers/__init__.py").touch()
    assert taken(tmp_path) == tmp_path / "trainers"
    other = tmp_path / "other"
    other.mkdir()
    (other / "cluster.py").touch()
    assert taken(other) == other / "cluster.py"
    with pytest.raises(ConfigError, match=r"cluster\.py: has the name of a package of Orthoplex, and so, so that"):
        refuse_taken(other, "so")


def test_a_checkout_is_ours(tmp_path: Path) -> None:
    for name in ("orthoplex", "orchestrator", "trainers", "cluster"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert taken(tmp_path) is None


def test_a_run_is_refused_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts the folder where a driver starts before all others on the path of its workers."""
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Ray has its workers import"), ray_session(ClusterConfig()):
        raise AssertionError
