"""Trains the base's own weights under ZeRO 0, 1 and 2; a part of `ranks_pair`.

The base is in FOLDER/base. The second of two tasks is left after four updates and resumed under the next stage. Rank 0
writes both tasks' files to FOLDER/METHOD_STAGE/TASK/.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.support.method_stream import MethodStream
from trainers.any_method import AnyMethod
from trainers.config import DeepSpeedConfig, TrainConfig
from trainers.method_config import EwcConfig, OsftConfig
from trainers.methods.base import Artifact
from trainers.methods.registry import method_for
from trainers.training.stage import Leaving, TaskTraining

FAMILY = "llama"
TARGETS = ["q_proj", "k_proj", "down_proj"]
LEFT_AT = 4
TRAIN: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 5, "max_grad_norm": 0.1}
METHODS: dict[str, AnyMethod] = {
    "ewc": EwcConfig(method="ewc", target_modules=TARGETS, weight=1e3),
    "osft": OsftConfig(method="osft", target_modules=TARGETS),
}
CASES = [("ewc", 0), ("ewc", 1), ("ewc", 2), ("osft", 2)]  # method, and the ZeRO stage that is begun with


def stream_of(base: Path, method: str, store: Path) -> MethodStream:
    config = METHODS[method]
    store.mkdir(parents=True, exist_ok=True)
    return MethodStream(base, config, lambda model: method_for(model, config, torch.float32), store)


def training(stream: MethodStream, index: int, stage: int, leave_at: int | None = None) -> TaskTraining:
    """The stage of a task under a ZeRO stage, in batches of odd size."""
    made = stream.training(index, leave_at)
    train = TrainConfig.model_validate({**made.job.train.model_dump(), **TRAIN})
    made.job = replace(made.job, train=train, deepspeed=DeepSpeedConfig.model_validate({"zero_stage": stage}))
    return made


def tasks(base: Path, method: str, stage: int, store: Path) -> list[Artifact]:
    """Both tasks, the second in two parts by two workers."""
    stream, other = stream_of(base, method, store), stream_of(base, method, store)
    first = training(stream, 0, stage).run().artifact
    for each in (stream, other):
        each.take([first])
    try:
        training(stream, 1, stage, LEFT_AT).run()
    except Leaving:
        dist.barrier()
    return [first, training(other, 1, (stage + 1) % 3).run().artifact]


def work(folder: Path) -> None:
    for method, stage in CASES:
        place = folder / f"{method}_{stage}"
        for number, artifact in enumerate(tasks(folder / "base", method, stage, place / "store")):
            if dist.get_rank() == 0:
                (place / str(number)).mkdir()
                artifact.write(place / str(number))
