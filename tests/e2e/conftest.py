"""One cluster for the whole session: a start takes half a minute."""

import tempfile
from collections.abc import Iterator

import pytest

from tests.support.nodes import Nodes


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_AUTH_MODE", raising=False)
        started = Nodes(tmp_path_factory.mktemp("cluster") / "cluster.json")
        yield started
        started.end()


@pytest.fixture(scope="module", autouse=True)
def temporary_files_of_users() -> Iterator[None]:
    """Commands leave nothing in /tmp, so it must be /tmp that they use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", "/tmp")
        patch.setattr(tempfile, "tempdir", "/tmp")
        yield
