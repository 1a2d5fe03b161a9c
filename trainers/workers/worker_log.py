"""A worker's log file: one JSON object per line, which names run, task and rank.

Ray keeps the file with the node's other logs (`ray logs`, the dashboard). With ORTHOPLEX_DEBUG=1 the driver shows it.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from cluster.finite import finite
from trainers.messages import Checkpointed, Event, Failed, Lost, Progress, Said, Saved, Started, TaskDone

KEPT: dict[type, tuple[str, ...]] = {
    TaskDone: ("index", "prefix", "overlap", "active_parameters", "cost")
}  # the rest is in the run's log


class WorkerLog:
    """Lines of one rank."""

    def __init__(self, run: str, tasks: Sequence[str], rank: int, stream: TextIO | None = None) -> None:
        """`run` is team/name; `tasks` are the names of its tasks, in order; `stream` is standard error by default."""
        self.run, self.tasks, self.rank, self.stream = run, tasks, rank, stream

    def write(self, event: Event) -> None:
        """{"time": Unix, "run", "task", "rank", "event": its kind, …its fields}; NaN and infinity become null."""
        fields = asdict(event)
        index = fields.get("index")
        line = {
            "time": round(time.time(), 3),
            "run": self.run,
            "task": None if index is None else self.tasks[index],
            "rank": self.rank,
            "event": NAMES[type(event)],
            **{key: value for key, value in fields.items() if key in KEPT.get(type(event), tuple(fields))},
        }
        print(json.dumps(finite(line), default=str), file=self.stream or sys.stderr, flush=True)


NAMES = {
    Started: "started", Progress: "progress", Checkpointed: "checkpoint", Said: "said", Saved: "saved",
    TaskDone: "done", Lost: "lost", Failed: "failed",
}  # fmt: skip
