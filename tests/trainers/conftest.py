"""One process group of this process alone, for all tests here that need one: it is to start once.

DeepSpeed keeps the group that it saw first, and fails with another.
"""

from collections.abc import Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(scope="session")
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
