"""Gauges among Ray's own metrics: every node of a cluster serves them to Prometheus, beside what Ray says of itself.

A figure `loss` becomes `ray_orthoplex_loss{run, task, of}`. What stands behind a slash in its name is `of`:
`aa/validation` is `ray_orthoplex_aa{of="validation"}`. Figures of a whole stream have an empty `task`. A gauge holds
the newest value, and Ray drops it some time after the driver has left.
"""

import re
from typing import TYPE_CHECKING

from orchestrator.sinks.base import Figures, Status, Tracked

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

PREFIX, TAGS = "orthoplex_", ("run", "task", "of")
DONE, STATUS = "tasks_done", "ended"
SAID = {
    "loss": "Mean over the loss terms of the last effective batch",
    "orthogonality": "The penalty on the output side, without its weight",
    "functional": "The functional penalty, without its weight",
    "overlap": "Share of the new adapter's output energy inside what earlier tasks wrote",
    "mean_rank": "Mean effective rank over the layers",
    "tokens_per_s": "Tokens trained on per second, over all workers",
    "gpu_bytes": "The most memory that rank 0 has had on its GPU",
    "progress": "Share of a task's steps that are done",
    DONE: "Tasks that are committed",
    STATUS: "1 for how the run ended (of)",
    "guard_broken": "1 if the guard (of) is broken",
}
_gauges: dict[str, "Gauge"] = {}  # a process has one of each name


class Prometheus:
    """Sets gauges in the driver's process. Before it is connected to Ray, and after, there is nobody to tell."""

    def start(self, run: Tracked) -> None:
        """See Sink."""
        self.run = run.label

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        """See Sink. A step of a whole stream is the number of tasks done."""
        told = values if task else {**values, DONE: float(step)}
        for name, value in told.items():
            self._set(name, value, task)

    def end(self, status: Status, summary: Figures) -> None:  # noqa: ARG002
        """See Sink."""
        self._set(f"{STATUS}/{status}", 1.0, None)

    def _set(self, name: str, value: float, task: str | None) -> None:
        import ray

        if ray.is_initialized():
            kind, _, of = name.partition("/")
            gauge_of(kind).set(value, tags={"run": self.run, "task": task or "", "of": of})


def gauge_of(kind: str) -> "Gauge":
    """The gauge of a kind of figures; it is made once."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", f"{PREFIX}{kind}")
    if name not in _gauges:
        from ray.util.metrics import Gauge

        _gauges[name] = Gauge(name, SAID.get(kind, kind), tag_keys=TAGS)
    return _gauges[name]
