"""JSON lines: one file that every run appends to, for other programs."""

import json
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.sinks.base import Figures, Status, Tracked, Value

Field = Value | dict[str, Value]


class JsonLines:
    """One line per event: {"time", "run", "event": start | log | end, …}. Lines of several processes do not mix."""

    def __init__(self, path: Path) -> None:
        """The folder of `path` is made when the first run starts."""
        self.path = path

    def start(self, run: Tracked) -> None:
        """See Sink."""
        self.run = run.label
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write("start", store=run.store, sweep=run.sweep, parameters=dict(run.parameters))

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        """See Sink."""
        self._write("log", step=step, task=task, values=dict(values))

    def end(self, status: Status, summary: Figures) -> None:
        """See Sink."""
        self._write("end", status=status, summary=dict(summary))

    def _write(self, event: str, **fields: Field) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "run": self.run, "event": event, **fields}, allow_nan=False, ensure_ascii=False)
        with self.path.open("ab", buffering=0) as file:
            file.write(f"{line}\n".encode())
