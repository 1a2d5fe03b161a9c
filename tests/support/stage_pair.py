"""A stage whose checkpoint rank 0 cannot read; run as one of two processes by test_stage.py.

Usage: python -m tests.support.stage_pair FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. Each rank
writes FOLDER/RANK.json: what it met, and whether it then trained the task.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.errors import StoreError
from tests.support.jobs_pair import Stream, job, worker_of


class Away:
    """A store that cannot be reached."""

    def get(self, key: str) -> bytes:
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
    stream.train(worker)
    return {"error": error, "training": trained, "tasks": worker.known}


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    torch.set_num_threads(1)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(met(folder)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
