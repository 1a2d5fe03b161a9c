"""A stage whose checkpoint rank 0 cannot read, and one whose ranks end with other bytes; run as one of two processes by
test_stage.py.

Usage: python -m tests.support.stage_pair FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. Each rank
writes FOLDER/RANK.json: what it met, whether it then trained the task, and which bytes and model it ended with.
"""

import hashlib
import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save

from cluster.errors import StoreError
from tests.support.jobs_pair import Stream, job, worker_of
from trainers.methods.base import Artifact
from trainers.methods.oa.files import ADAPTER_FILE, BASES_FILE
from trainers.methods.oa.method import OaAttached
from trainers.models.loading import weights_digest


class Away:
    """A store that cannot be reached."""

    def get(self, key: str, most: int | None = None) -> bytes:
        raise StoreError(f"{key} is out of reach")


def met(folder: Path) -> dict[str, Any]:
    """The error of a stage that cannot read its checkpoint, and what the same workers make of the next order."""
    stream = Stream(job("t/away", str(folder / "store"), 2, {}, epochs=1))
    worker = worker_of(stream.job)
    training = worker.training(stream.order())
    if dist.get_rank() == 0:
        training.store = Away()  # type: ignore[assignment]
    try:
        training.run()
        error = ""
    except StoreError as caught:
        error = str(caught)
    trained = worker.backbone.model.training
    made = disagree()
    stream.train(worker)
    return {
        "error": error, "training": trained, "tasks": worker.known, "bytes": made, "stored": list(stream.digests[0]),
        "model": weights_digest(worker.backbone.model),
    }  # fmt: skip


def disagree() -> list[str]:
    """Makes rank 1 end its tasks with W2 a little larger; returns a list that gets the digests of each rank's files."""
    finish, made = OaAttached.finish, []

    def finish_otherwise(self: OaAttached, reader: Any) -> Artifact:
        artifact = finish(self, reader)
        tensors = load(artifact.files[ADAPTER_FILE])
        other = {key: (1 + 1e-3 * dist.get_rank()) * tensor for key, tensor in tensors.items()}
        files = {**artifact.files, ADAPTER_FILE: save(other)}
        made.extend(hashlib.sha256(files[name]).hexdigest() for name in (ADAPTER_FILE, BASES_FILE))
        return replace(artifact, files=files)

    OaAttached.finish = finish_otherwise  # type: ignore[method-assign]
    return made


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    torch.set_num_threads(1)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(met(folder)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
