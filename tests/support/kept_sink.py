"""The smallest sink: it keeps what it is told. A test double, and an example."""

from dataclasses import dataclass, field

from orchestrator.sinks.base import Figures, Status, Tracked
from tests.support.places import Found


@dataclass
class Shelf:
    """A place (`tests.support.places`): what its sinks were told, by group and name of the run."""

    kept: dict[str, Found] = field(default_factory=dict)

    def sink(self) -> "KeptSink":
        return KeptSink(self)

    def read(self) -> dict[str, Found]:
        return self.kept


class KeptSink:
    """Keeps figures as they come."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def start(self, run: Tracked) -> None:
        self.found = self.shelf.kept.setdefault(f"{run.group}/{run.name}", Found())
        self.found.parameters |= {key: str(value) for key, value in run.parameters.items()}
        self.found.status = None

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        for name, value in values.items():
            self.found.add(name, task, step, value)

    def end(self, status: Status, summary: Figures) -> None:
        del summary  # logged last already
        self.found.status = status
