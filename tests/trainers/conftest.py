"""One Ray for all tests here that need one: a process is to start it once."""

from collections.abc import Iterator

import pytest

from cluster.resources import ClusterConfig
from cluster.session import ray_session


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Two CPUs or more, and nobody else's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_session(ClusterConfig(num_workers=2)):
            yield
