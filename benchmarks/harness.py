"""What the benchmarks share: results that outlive the command, rows that may fail, a clock, and Markdown.

A results file is {"subject": what is measured, "runs": [where and with what, a command], "rows": {key: row}}. A row
holds figures or {"error": text}, and `run`, the index of the command that measured it.
"""

import datetime
import gc
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


@dataclass
class Results:
    """Rows by key, kept in `path` after every one where a path is given."""

    subject: str
    path: Path | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    current: int = 0

    @staticmethod
    def open(subject: str, path: Path | None, run: dict[str, Any]) -> "Results":
        """What the file holds, if there is one, and `run` as the latest command.

        Raises:
            SystemExit: the file is of another subject.
        """
        results = Results(subject, path)
        if path is not None and path.exists():
            stored = json.loads(path.read_text())
            if stored["subject"] != subject:
                raise SystemExit(
                    f"{path} holds results of {stored['subject']!r}, not of {subject!r}; name another file"
                )
            results.runs, results.rows = stored["runs"], stored["rows"]
        if run not in results.runs:
            results.runs.append(run)
        results.current = results.runs.index(run)
        return results

    def done(self, key: str, *, retry: bool = False) -> bool:
        """Whether the row needs no measuring; one that failed does where `retry`."""
        return key in self.rows and not (retry and "error" in self.rows[key])

    def put(self, key: str, row: Row) -> None:
        """Keeps a row; the file is replaced as a whole, so that it is never half written."""
        self.rows[key] = {**row, "run": self.current}
        if self.path is not None:
            content = {"subject": self.subject, "runs": self.runs, "rows": self.rows}
            beside = self.path.with_name(self.path.name + ".tmp")
            beside.write_text(json.dumps(content, indent=1))
            beside.replace(self.path)

    def header(self) -> str:
        """A line a command whose figures are in the table."""
        used = sorted({row["run"] for row in self.rows.values()})
        return "\n".join([self.subject, "", *("- " + describe(self.runs[index]) for index in used)])


def provenance(device: torch.device, **more: Any) -> dict[str, Any]:
    """Machine, versions, commit and day of a command, and what else it was asked."""
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores {platform.machine()}"
    versions = {}
    for package in ("torch", "transformers", "peft", "deepspeed"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"machine": machine, "threads": torch.get_num_threads(), **versions, "commit": commit(), "day": day, **more}


def describe(run: dict[str, Any]) -> str:
    """One line of it."""
    return ", ".join(str(value) if key == "machine" else f"{key} {value}" for key, value in run.items())


def commit() -> str:
    """What is checked out, with `+` where files differ from it; ORTHOPLEX_COMMIT says it where there is no git."""
    if "ORTHOPLEX_COMMIT" in os.environ:
        return os.environ["ORTHOPLEX_COMMIT"]
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def attempt(measure: Callable[[], Row], device: torch.device, limit_s: float) -> Row:
    """The row that `measure` gives, or {"error": why there is none}; frees what it left behind."""
    started = time.perf_counter()
    try:
        with time_limit(limit_s):
            row = measure()
    except Exception as error:  # one row must not take the table down; its reason stands in the table
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        row = {"error": f"{type(error).__name__}: {lines[0]}"[:160].replace("|", "/")}
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {**row, "took_s": round(time.perf_counter() - started, 1)}


@contextmanager
def time_limit(seconds: float, error: type[BaseException] = TimeoutError) -> Iterator[None]:
    """Raises `error` in the main thread once the time is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: Any) -> None:
        raise error(f"no end after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronized_clock(device: torch.device) -> float:
    """Seconds on the host's clock once the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; short rows are filled with empty cells."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join([*row, *[""] * (len(columns) - len(row))]) + " |" for row in rows]
    return "\n".join(lines)
