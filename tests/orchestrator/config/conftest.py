"""Loads what a user wrote from a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from orchestrator.config.run import RunConfig, load_config
from tests.support.configurations import Load


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str | bytes, *overrides: str) -> RunConfig:
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides)

    return load


@pytest.fixture
def refused(load: Load, tmp_path: Path) -> Callable[..., str]:
    """The message, without the folder of the file."""

    def refused(text: str | bytes, *overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        assert caught.value.exit_code == 2
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refused
