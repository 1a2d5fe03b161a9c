"""Trains two tasks on one CPU thread, without Ray, twice over: folded under a penalty, concatenated under a projection.

Usage: python -m tests.golden.tiny_run FOLDER. It writes FOLDER/<stream>-<task>-{adapter,bases}.safetensors and
FOLDER/machine.json, which says where this was: bits are equal only where all of that is. Two runs on one machine agree
bit by bit. To record anew: PYTHONPATH=. python -m tests.golden.tiny_run tests/golden/adapters
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.support.jobs_pair import TASKS, Stream, job, worker_of

LAYERS = {"target_modules": [f"encoder.layer.{layer}.attention.output.dense" for layer in (4, 5)]}
SMALL = {**LAYERS, "max_rank": 3, "threshold": 0.4, "budget_weight": 0.01, "functional": {"weight": 0.0}}
BOTH = {"weight": 5.0, "side": "both", "energy": 0.3}
STREAMS: dict[str, dict[str, Any]] = {
    "folded": {**SMALL, "threshold": 0.6, "orthogonality": BOTH},
    "projected": {
        **SMALL, "orthogonality": {**BOTH, "mode": "projection"}, "history": "concatenated",
    },
}  # fmt: skip


def machine() -> dict[str, str]:
    """What the bits depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "cpu": model}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}  # DeepSpeed reads these too
    with tempfile.TemporaryDirectory() as scratch:
        dist.init_process_group("gloo", init_method=f"file://{scratch}/meet", rank=0, world_size=1)
        streams = {name: Stream(job(f"t/{name}", f"{scratch}/store", 2, adapter)) for name, adapter in STREAMS.items()}
        worker = worker_of(streams["folded"].job)
        for name, stream in streams.items():
            for number, _ in enumerate(TASKS, start=1):
                stream.train(worker)
                for kind, data in zip(("adapter", "bases"), stream.files[-1], strict=True):
                    (folder / f"{name}-{number}-{kind}.safetensors").write_bytes(data)
        dist.destroy_process_group()
    (folder / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
