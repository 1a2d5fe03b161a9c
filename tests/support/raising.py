"""A sink that raises in one of its calls."""

from orchestrator.sinks.base import Figures, Status, Tracked


class Raising:
    """`told` is what it was asked for."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.told: list[str] = []

    def start(self, run: Tracked) -> None:
        self._told("start")

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        self._told("log")

    def end(self, status: Status, summary: Figures) -> None:
        self._told("end")

    def _told(self, what: str) -> None:
        self.told.append(what)
        if what == self.at:
            raise OSError("the disk is full")
