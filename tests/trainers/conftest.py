"""One process group of this process alone, for all tests here that need one: it is to start once.

DeepSpeed keeps the group that it saw first, and fails with another.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.support.launching import launch


@pytest.fixture(scope="session")
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks have left what `tests.support.ranks_pair` asks of them."""
    from tests.support import ranks_pair

    folder = tmp_path_factory.mktemp("ranks")
    ranks_pair.prepare(folder)
    launch(folder, 2, ranks_pair.__name__)
    return folder
