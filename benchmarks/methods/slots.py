"""Processes that measure cells, one at a time each; several share a GPU. A process that dies loses its cell alone."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.methods.plan import Cell

if TYPE_CHECKING:
    from benchmarks.methods.measure import Place

SPAWN = multiprocessing.get_context("spawn")
MOST_ERROR = 300  # letters of it that a line keeps


def gpus() -> list[str]:
    """The ids of this machine's GPUs as CUDA_VISIBLE_DEVICES has them; none if there is no driver."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each for each in given.split(",") if each]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU ")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a process is started with. `gpu` is the id of its GPU, None on a CPU; `threads` are those of torch."""

    work: Path
    data_dir: Path | None
    model: str | None
    keep: bool
    beside: int
    threads: int
    gpu: str | None = None

    def place(self) -> "Place":
        """Where its cells run."""
        from benchmarks.methods.measure import Place

        return Place(
            work=self.work, data_dir=self.data_dir, model=self.model, gpu=self.gpu is not None, beside=self.beside,
            keep=self.keep,
        )  # fmt: skip


class Slot:
    """One process; `cell` is the one that it measures, since `began`."""

    def __init__(self, number: int, options: Options) -> None:
        self.number, self.options = number, options
        self.cell: Cell | None = None
        self.began = 0.0
        self.process: BaseProcess | None = None
        self.connection: Connection

    @property
    def log(self) -> Path:
        """What its process prints."""
        return self.options.work / f"slot-{self.number}.log"

    def begin(self, cell: Cell) -> None:
        """Gives it a cell; starts the process if there is none."""
        if self.process is None:
            self.connection, other = SPAWN.Pipe()
            self.process = SPAWN.Process(target=serve, args=(other, self.log, self.options), daemon=True)
            self.process.start()
            other.close()
        self.cell, self.began = cell, time.monotonic()
        self.connection.send(cell)

    def take(self) -> dict[str, Any]:
        """The line of the cell, which has ended, or of why there is none."""
        assert self.cell is not None and self.process is not None
        cell, self.cell = self.cell, None
        try:
            line: dict[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            line = failed(cell, f"its process ended with {self.process.exitcode}; see {self.log}")
            self.process = None
        return line

    def end(self) -> None:
        """Ends the process, and with it the cell, which goes on from its last committed task when it is begun again."""
        if self.process is not None:
            self.process.terminate()
            self.process.join()
        self.process, self.cell = None, None


class Slots:
    """`jobs` processes, which take turns on the GPUs."""

    def __init__(self, jobs: int, devices: Sequence[str], options: Options) -> None:
        given = [devices[number % len(devices)] if devices else None for number in range(jobs)]
        self.slots = [Slot(number, replace(options, gpu=gpu)) for number, gpu in enumerate(given)]

    @property
    def busy(self) -> list[Slot]:
        """Those that measure."""
        return [slot for slot in self.slots if slot.cell is not None]

    @property
    def running(self) -> set[str]:
        """The keys of the cells that are measured now."""
        return {slot.cell.key for slot in self.busy if slot.cell}

    def free(self) -> Slot | None:
        """One that does not measure, if there is one; first one that has started."""
        idle = [slot for slot in self.slots if slot.cell is None]
        return min(idle, key=lambda slot: slot.process is None, default=None)

    def ended(self, timeout_s: float) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Waits until a cell ends, at most so long; gives the cells that have ended with their lines."""
        by_connection = {slot.connection: slot for slot in self.busy}
        for connection in wait(list(by_connection), max(0.0, timeout_s)):
            slot = by_connection[connection]  # type: ignore[index]
            cell = slot.cell
            assert cell is not None
            yield cell, slot.take()

    def end(self) -> None:
        """Ends all processes."""
        for slot in self.slots:
            slot.end()


def failed(cell: Cell, error: str) -> dict[str, Any]:
    """The line of a cell that failed."""
    return {**cell.named(), "error": error[:MOST_ERROR]}


def serve(connection: Connection, log: Path, options: Options) -> None:
    """Measures cells until the other end is closed. What is printed goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ |= environment(options)
    from trainers.imports import quick_imports

    with quick_imports():
        import deepspeed  # noqa: F401
        import torch
        import transformers.modeling_utils  # noqa: F401

        from benchmarks.methods.alone import process_group

    torch.set_num_threads(options.threads)
    place = options.place()
    if place.gpu:
        torch.cuda.set_device(0)
    with process_group(place.device):
        while (cell := received(connection)) is not None:
            connection.send(attempt(cell, options))


def received(connection: Connection) -> Cell | None:
    """The next cell; None if there will be none."""
    try:
        cell: Cell = connection.recv()
    except EOFError:
        return None
    return cell


def attempt(cell: Cell, options: Options) -> dict[str, Any]:
    """The line of a cell; of one that fails, with the error."""
    from benchmarks.methods.measure import measure

    try:
        return measure(cell, options.place())
    except Exception as error:  # it stands in the file, and the table lists it
        traceback.print_exc()
        return failed(cell, f"{type(error).__name__}: {error}".splitlines()[0])


def environment(options: Options) -> dict[str, str]:
    """The variables that libraries read when they are imported."""
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    device = {"DS_ACCELERATOR": "cpu"} if options.gpu is None else {"CUDA_VISIBLE_DEVICES": options.gpu}
    return {**threads, **quiet, **device}


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
