"""An empty log."""

from pathlib import Path

import pytest

from orchestrator.track.track import Track
from tests.support.registries import folder_track


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return folder_track(tmp_path / "store")
