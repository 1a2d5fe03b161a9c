"""One cell, measured in this process: a run from its last committed task to its end, and what its log then says."""

import gc
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.harness import provenance
from benchmarks.methods.alone import AloneWorkers
from benchmarks.methods.plan import Cell
from benchmarks.methods.rows import packed
from orchestrator.config.run import RunConfig
from orchestrator.registry.row_scores import row_scores
from orchestrator.run.controller import Controller
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from orchestrator.track.union import union_metrics
from trainers.messages import Progress

LEASE_S = 20.0  # a cell that was cut is gone on with after that
FIGURES = {"aa": "aa", "bwt": "bwt", "forgetting": "forgetting", "fwt": "fwt", "la": "learning_accuracy"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a cell runs: folder of its store, of the benchmark's data and of MiniLM, if they lie elsewhere than the
    configuration says; whether a GPU is used; how many cells run at once on this machine; whether the store is kept."""

    work: Path
    data_dir: Path | None = None
    model: str | None = None
    gpu: bool = False
    beside: int = 1
    keep: bool = False

    @property
    def device(self) -> torch.device:
        """What the cell is computed on."""
        return torch.device("cuda", 0) if self.gpu else torch.device("cpu")

    def config(self, cell: Cell) -> RunConfig:
        """The configuration of the cell's run here."""
        sections: dict[str, Any] = {"cluster": {"num_workers": 1, "use_gpu": self.gpu, "lease_s": LEASE_S}}
        if self.data_dir:
            sections["data_dir"] = str(self.data_dir)
        if self.model and cell.settings["model"]["name"] == "minilm":
            sections["model"] = {"name": self.model}
        return cell.config(store=str(self.store(cell)), **sections)

    def store(self, cell: Cell) -> Path:
        """The folder of its store."""
        return self.work / cell.name


class Printed:
    """A reporter that prints."""

    def say(self, message: str) -> None:
        """See Reporter."""
        print(message, file=sys.stderr, flush=True)

    def taken(self, state: RunState) -> None:
        """See Reporter."""
        self.say(f"{state.label}: {len(state.commits)} tasks are done")

    def progress(self, task: str, progress: Progress) -> None:
        """See Reporter: steps are in training.parquet."""

    def committed(self, state: RunState) -> None:
        """See Reporter."""
        self.say(f"{state.label}: {len(state.commits)} of {len(state.tasks)}, {state.commits[-1].task}")


def measure(cell: Cell, place: Place) -> dict[str, Any]:
    """The cell's line. Its store is removed, unless it is to be kept."""
    config, device = place.config(cell), place.device
    controller = Controller(config, Printed(), workers=AloneWorkers(config, Printed().say, device))
    before, started = len(controller.state.commits), time.monotonic()
    if place.gpu:
        torch.cuda.reset_peak_memory_stats(device)
    state = controller.run()
    line = {
        **cell.named(),
        **scores(state),
        **sizes(controller.track, config, state),
        "correct": rows_of(controller.track),
        "wall_s": round(time.monotonic() - started, 1),
        "resumed": before,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated(device) if place.gpu else None,
        "beside": place.beside,
        **provenance(device),
    }
    del controller
    free(place, cell)
    return line


def scores(state: RunState) -> dict[str, Any]:
    """Matrices, fractions to six digits, and what follows from them."""
    figures, sizes = state.metrics("test"), [task.rows.test for task in state.tasks]
    return {
        "tasks": [task.name for task in state.tasks],
        "rows": sizes,
        "test": [rounded(row) for row in state.matrix("test")],
        "validation": [rounded(row) for row in state.matrix("validation")],
        "zero_shot": rounded(state.zero_shot),
        **{name: figures[key] for name, key in FIGURES.items()},
        "aa_union": union_metrics(state.commits, sizes)["aa"],
    }


def rounded(row: Sequence[float | None]) -> list[float | None]:
    """Six digits are more than a test split of any size tells apart."""
    return [None if value is None else round(value, 6) for value in row]


def rows_of(track: Track) -> dict[str, str]:
    """The values of every task's test rows after the last task, see `rows.packed`."""
    return {task: packed(found.values) for task, found in row_scores(track).items()}


def sizes(track: Track, config: RunConfig, state: RunState) -> dict[str, Any]:
    """Parameters in training in one task, and kept over all; bytes of the method's own files; seconds. By task: kept
    parameters, dimensions of those at the start, layers without any, and how full the bases are."""
    costs = [commit.cost for commit in state.commits if commit.cost]
    files = [data for commit in state.commits for data in track.committed(commit, *config.adapter.files)]
    return {
        "trained": in_training(config),
        "kept": state.active_parameters,
        "stored_bytes": sum(map(len, files)),
        "train_s": round(sum(cost.train_s for cost in costs), 2),
        "evaluate_s": round(sum(cost.evaluate_s for cost in costs), 2),
        "base": state.base_digest,
        "by_task": [by_task(commit) for commit in state.commits],
    }


def by_task(commit: Committed) -> dict[str, Any]:
    """What a task kept, and how full it left the bases: means over layers, shares of their width."""
    layers, full = commit.budget.values(), commit.occupancy.values()
    kept = {
        "kept": commit.active_parameters,
        "ranks": sum(layer.rank for layer in layers),
        "of": sum(layer.max_rank for layer in layers),
        "dead": sum(layer.rank == 0 for layer in layers),
        "layers": len(layers),
    }
    if full:
        kept |= {key: round(mean(getattr(each, key) for each in full), 4) for key in ("written", "read")}
    return kept


def in_training(config: RunConfig) -> int:
    """Number of parameters that are in training in one task."""
    from trainers.methods.registry import check_method

    _, method = check_method(config.model, config.adapter, config.train)
    return method.footprint(len(config.tasks)).trained


def free(place: Place, cell: Cell) -> None:
    """Gives memory back, and removes the store."""
    gc.collect()
    if place.gpu:
        torch.cuda.empty_cache()
    if not place.keep:
        shutil.rmtree(place.store(cell), ignore_errors=True)
