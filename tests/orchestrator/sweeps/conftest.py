"""What tests of sweeps share."""

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A folder for a store, which is not there yet."""
    return str(tmp_path / "store")
