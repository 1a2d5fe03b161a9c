"""What is lost when tasks are folded into bfloat16 weights, and what each way around it costs.

    PYTHONPATH=. python benchmarks/rounding.py [--base configs/quickstart.yaml] [--set KEY=VALUE …] [--ways nearest …]
        [--rates 3e-3 3e-4] [--seeds 0] [--results rounding.json]

Trains the stream of a run's configuration as one worker does, with a bfloat16 base and each `adapter.rounding`, with a
concatenated history, and with a float32 base. A smaller learning rate makes smaller changes of the weights. Columns:
the size ‖ΔW‖/‖W‖ of the change, the share of it that the weights hold (⟨W_stored − W0, ΔW⟩ / ‖ΔW‖²), accuracy before
training, accuracy after it and backward transfer on the test rows in points, milliseconds per step of all tasks but the
first, and MiB of weights and history on the device and of kept originals on the host.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.harness import Results, Row, markdown, provenance
from orchestrator.config.file import override, read_mapping
from orchestrator.config.run import RunConfig
from orchestrator.run.workers import all_rows, load_tasks
from orchestrator.track.metrics import average_accuracy, backward_transfer
from trainers.messages import Job, Order, Score, TaskDone
from trainers.methods.oa.history import History
from trainers.methods.targets import dense
from trainers.workers.worker import Worker

MIB = 2**20
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WAYS: dict[str, dict[str, Any]] = {
    "nearest": {"model.dtype": "bfloat16", "adapter.rounding": "nearest"},
    "stochastic": {"model.dtype": "bfloat16", "adapter.rounding": "stochastic"},
    "none": {"model.dtype": "bfloat16", "adapter.rounding": "none"},
    "concatenated": {"model.dtype": "bfloat16", "adapter.history": "concatenated"},
    "float32 base": {"model.dtype": "float32"},
}


@contextmanager
def alone() -> Iterator[None]:
    """A process group of this process, as a worker needs one."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def measure(config: RunConfig, folder: Path) -> Row:
    """The stream of one configuration, on one worker."""
    rows = tuple(all_rows(config, load_tasks(config, say=lambda _: None)))
    sections = config.model, config.adapter, config.train, config.deepspeed
    job = Job("bench/rounding", *sections, str(folder), rows)
    worker = Worker(job, DEVICE, lambda _: None)
    originals = {name: dense(module)[0].float().clone() for name, module in worker.method.modules.items()}
    done: list[TaskDone] = []
    started = time.perf_counter()
    for index in range(len(rows)):
        order = Order(
            index, 1, "v", (), (), f"c/{index}", {}, zero_shot=not index, validation=(), test=range(index + 1)
        )
        done.append(worker.run(order))
    matrix = [points(task.test) for task in done]
    steps = [config.train.steps(len(splits["train"].terms)) for splits in worker.splits]
    device, host = held_bytes(worker)
    return {
        "change": relative_change(worker.method.history, originals),  # type: ignore[attr-defined]
        "kept": done[-1].kept["overall"] if done[-1].kept else 1.0,
        "untrained": statistics.mean(points(done[0].zero_shot or [])),
        "AA": average_accuracy(matrix),
        "BWT": backward_transfer(matrix),
        "ms": 1000 * sum(task.cost["train_s"] for task in done[1:]) / sum(steps[1:]),
        "MiB": device / MIB,
        "host MiB": host / MIB,
        "s": time.perf_counter() - started,
    }


def points(scores: Sequence[Score]) -> list[float]:
    """Accuracy per task."""
    return [100 * score.correct / score.rows for score in scores]


@torch.no_grad()
def relative_change(history: History, originals: Mapping[str, torch.Tensor]) -> float:
    """‖F_t W0 − W0‖ / ‖W0‖ over the layers, from the stored adapters."""
    from trainers.methods.oa.history import fold

    change, size = 0.0, 0.0
    for name, weight_DK in originals.items():
        folded_DK, _ = fold(weight_DK, None, [task.modules[name] for task in history.tasks if name in task.modules])
        change += float((folded_DK - weight_DK).square().sum())
        size += float(weight_DK.square().sum())
    return (change / size) ** 0.5


def held_bytes(worker: Worker) -> tuple[int, int]:
    """Bytes of the weights and of the pairs of a concatenated history; and of the kept originals of a folded one."""
    history: History = worker.method.history  # type: ignore[attr-defined]
    pairs = [part for module in history.modules.values() for part in module.__dict__.get("history") or ()]
    device = sum(tensor.nbytes for tensor in (*worker.backbone.model.parameters(), *pairs))
    return device, history.originals.nbytes


def table(rows: Mapping[str, Row]) -> str:
    """The rows in Markdown."""
    cells = [
        [key, f"{r['change']:.1e}", f"{r['kept']:.1%}", f"{r['untrained']:.1f}", f"{r['AA']:.1f}", f"{r['BWT']:+.1f}",
         f"{r['ms']:.0f}", f"{r['MiB']:.1f} + {r['host MiB']:.1f}"]
        for key, r in rows.items()
    ]  # fmt: skip
    names = ["rate, seed, way", "‖ΔW‖/‖W‖", "kept", "untrained", "AA", "BWT", "ms per step", "MiB"]
    return markdown(names, cells)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 3e-4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    options = parser.parse_args()
    results = Results.open(f"rounding, {options.base}", options.results, provenance(DEVICE))
    with alone():
        for rate, seed, way in product(options.rates, options.seeds, options.ways):
            key = f"{rate:g}, {seed}, {way}"
            if results.done(key):
                continue
            content = read_mapping(options.base)
            settings = {"train.learning_rate": f"{rate:.9f}", "train.seed": seed, **WAYS[way]}
            for assignment in (*options.set, *(f"{name}={value}" for name, value in settings.items())):
                override(content, assignment)
            with tempfile.TemporaryDirectory() as folder:
                results.put(key, measure(RunConfig.model_validate(content), Path(folder)))
    print(results.header() + "\n")
    print(table(results.rows))


if __name__ == "__main__":
    main()
