"""Where the ranks of a group meet before they can talk.

On a cluster it is a port of rank 0, as torch and Ray Train have it. That port listens on every interface, whatever
address it is given. So ranks that all run on this machine meet in a file.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch.config import (
    TorchConfig,
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)

from cluster.session import on_this_machine


def meeting_in(folder: str) -> str | None:
    """The URL at which ranks meet if all of them run on this machine: a new file in `folder`; else None."""
    return f"file://{folder}/meeting-{uuid.uuid4().hex}" if on_this_machine() else None


@dataclass
class Meeting(TorchConfig):
    """Ray Train's process group of torch, whose ranks meet in `folder` if all of them run on this machine."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What carries it out."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Meeting) -> None:
        """See TorchConfig."""
        url = meeting_in(backend_config.folder)
        if url is None:
            super().on_start(worker_group, backend_config)
            return
        worker_group.execute(_set_torch_distributed_env_vars)
        ranks = range(len(worker_group))
        common = {"backend": backend_config.backend, "init_method": url, "timeout_s": backend_config.timeout_s}
        common["world_size"] = len(ranks)
        join = worker_group.execute_single_async
        ray.get([join(rank, _setup_torch_process_group, world_rank=rank, **common) for rank in ranks])
