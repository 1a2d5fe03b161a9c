"""One Ray, and one process group of this process alone, for all tests here that need one: each is to start once.

DeepSpeed keeps the group that it saw first, and fails with another.
"""

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from cluster.resources import ClusterConfig
from cluster.session import ray_session


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Two CPUs or more, and nobody else's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_session(ClusterConfig(num_workers=2)):
            yield


@pytest.fixture(scope="session")
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
