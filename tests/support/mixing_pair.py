"""Tasks trained on rows of others too, under ZeRO 2 and 3; a part of `ranks_pair`.

The base is in FOLDER/base. Rank 0 writes FOLDER/CASE-TASK.safetensors, and FOLDER/CASE.json with what each commit
would say.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.storage import open_store
from tests.support.jobs_pair import TASKS
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.messages import Job, Order
from trainers.method_config import AdapterConfig
from trainers.methods.oa.files import ADAPTER_FILE
from trainers.workers.worker import Worker

FAMILY = "gpt2"
CASES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "decoder-3": (3, "CAUSAL_LM", {"replay": {"share": 0.2}}),
    "encoder-2": (2, "LABEL_EMBEDDING", {"joint": True}),
}


def job_of(folder: Path, name: str) -> Job:
    """An odd batch size, so that ranks have unequal shares."""
    stage, task_type, policy = CASES[name]
    (folder / f"store-{dist.get_world_size()}").mkdir(exist_ok=True)  # as a driver leaves it to workers
    model = {"name": str(folder / "base"), "task_type": task_type, "max_length": 16}
    adapter = {"target_modules": ["c_attn"], "max_rank": 3, "threshold": 0.3, "orthogonality": {"side": "both"}}
    train = {"epochs": 1, "batch_size": 7, "warmup_steps": 1, "learning_rate": 5e-3, "logging_steps": 1, **policy}
    return Job(
        f"t/{name}", ModelConfig.model_validate(model),
        AdapterConfig.model_validate(adapter), TrainConfig.model_validate(train),
        DeepSpeedConfig.model_validate({"zero_stage": stage}), str(folder / f"store-{dist.get_world_size()}"), TASKS,
    )  # fmt: skip


def streamed(folder: Path, name: str) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Per order the adapter, and the rows and scores that it is told with; what ranks but the first have is no file."""
    job = job_of(folder, name)
    worker = Worker(job, torch.device("cpu"), lambda _: None)
    base = Order(
        0, 1, "v", (), (), "c", {}, zero_shot=False, validation=(), test=range(len(TASKS)), union=True, keep_rows=True
    )
    files, told = [], []
    for index in [1] if job.train.joint else [0, 1]:
        done = worker.run(replace(base, index=index, checkpoint=f"c/{name}/{index}"))
        scores = {key: [each.correct for each in getattr(done, key)] for key in ("test", "union")}
        told.append({"rows": done.trained_rows, **scores})
        if dist.get_rank() == 0:
            files.append(open_store(job.store_uri).get(f"{done.prefix}/{ADAPTER_FILE}"))
    return files, told


def work(folder: Path) -> None:
    for name in CASES:
        files, told = streamed(folder, name)
        for index, data in enumerate(files):
            (folder / f"{name}-{index}.safetensors").write_bytes(data)
        if dist.get_rank() == 0:
            (folder / f"{name}.json").write_text(json.dumps(told))
