"""Streams of two tasks by each method with low-rank updates, under ZeRO 0 to 2; a part of
`ranks_pair`. The base is in FOLDER/base. Rank 0 writes FOLDER/STAGE-METHOD-TASK.safetensors.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from tests.support.method_stream import MethodStream
from trainers.any_method import AnyMethod
from trainers.methods.registry import method_for
from trainers.methods.updates import FILE

FAMILY = "gpt2"
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


def work(folder: Path) -> None:
    for stage, method in CASES:
        for task, data in enumerate(streamed(folder, stage, method)):
            if dist.get_rank() == 0:
                (folder / f"{stage}-{method}-{task}.safetensors").write_bytes(data)
