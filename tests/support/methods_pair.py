"""Streams of two tasks by each method with low-rank updates, under ZeRO 0 to 2; run as one of two processes by
test_two_ranks.py.

Usage: python -m tests.support.methods_pair FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, and the base
in FOLDER/base. Rank 0 writes FOLDER/STAGE-METHOD-TASK.safetensors.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from tests.support.method_stream import MethodStream
from trainers.any_method import AnyMethod
from trainers.methods.registry import method_for
from trainers.methods.updates import FILE

COMMON = {"target_modules": ["c_attn"], "rank": 2, "alpha": 4.0, "dropout": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "incremental_lora": {},
    "olora": {"orthogonality_weight": 0.05, "norm_weight": 0.01},
    "inflora": {"energy": 0.6},
    "ella": {"alignment_weight": 5.0},
    "adalora": {"initial_rank": 4},
}
CASES = [*((2, method) for method in METHODS), (0, "adalora"), (1, "adalora"), (1, "inflora")]


def streamed(folder: Path, stage: int, method: str) -> list[bytes]:
    """The updates of both tasks as they are stored."""
    config: Any = TypeAdapter(AnyMethod).validate_python({"method": method, **COMMON, **METHODS[method]})
    store = folder / f"store-{stage}-{method}-{dist.get_world_size()}"
    stream = MethodStream(
        folder / "base", config, lambda model: method_for(model, config, torch.float32), store, stage=stage
    )
    return [stream.learn(index).files[FILE] for index in range(2)]


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for stage, method in CASES:
        for task, data in enumerate(streamed(folder, stage, method)):
            if dist.get_rank() == 0:
                (folder / f"{stage}-{method}-{task}.safetensors").write_bytes(data)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
