"""Fills the results file: begins cells as long as they are likely to end in time, and adds a line per cell."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.methods import results
from benchmarks.methods.plan import Asked, Cell, Line, Plan, choice, estimate_s, grid, missing
from benchmarks.methods.slots import Slots

POLL_S = 5.0
Say = Callable[[str], None]


@dataclass(kw_only=True)
class Filling:
    """One command's work. `minutes` is how long it may take; cells that have not ended then are left. Stores of cells
    are below `work`."""

    plan: Plan
    path: Path
    slots: Slots
    work: Path
    asked: Asked
    say: Say
    minutes: float | None = None
    retry: bool = False
    gpu: bool = False
    began: float = field(default_factory=time.monotonic)
    tried: set[str] = field(default_factory=set)

    def run(self) -> int:
        """Measures what is missing; returns how many cells ended."""
        count = 0
        self.lines = results.read(self.path)
        try:
            while self.left_s > 0 and (self.begin() or self.slots.busy):
                for cell, line in self.slots.ended(min(POLL_S, self.left_s)):
                    count += 1
                    self.keep(cell, line)
            if self.slots.busy:
                self.say(f"the time is up: {len(self.slots.busy)} cells have not ended")
        finally:
            self.slots.end()
        return count

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return float("inf") if self.minutes is None else 60 * self.minutes - (time.monotonic() - self.began)

    def begin(self) -> bool:
        """Begins cells in all free slots; whether one was begun."""
        self.choose()
        begun = False
        while (slot := self.slots.free()) and (cell := self.next()):
            self.tried.add(cell.key)
            slot.begin(cell)
            begun = True
        return begun

    def next(self) -> Cell | None:
        """The next cell that is likely to end in time: those that were begun before, which go on from their last
        task, whatever is left of the time; then those of tuning, since others wait for them; long before short ones."""
        ready = missing(self.plan, self.lines, self.asked, retry=self.retry).ready
        tuning = {cell.key for method in self.plan.methods for cell in grid(self.plan, method)}
        took = {name: estimate_s(self.plan, name, self.lines, self.gpu) for name in self.plan.streams}
        begun = {cell.key for cell in ready if (self.work / cell.name).exists()}
        fits = [cell for cell in ready if cell.key in begun or took[cell.stream] <= self.left_s]
        rank = {cell.key: (cell.key not in begun, cell.key not in tuning, -took[cell.stream]) for cell in fits}
        return min((cell for cell in fits if cell.key not in self.tried), key=lambda cell: rank[cell.key], default=None)

    def keep(self, cell: Cell, line: Line) -> None:
        """Adds a line to the file, and says so."""
        results.append(self.path, line)
        self.lines[cell.key] = dict(line)
        self.say(told(cell, line))

    def choose(self) -> None:
        """Adds to the file what tuning has chosen, once it is known."""
        for method in self.plan.methods:
            if self.plan.methods[method].tune and (found := choice(self.plan, method, self.lines)):
                line = found.line(self.plan)
                if line["key"] not in self.lines:
                    results.append(self.path, line)
                    self.lines[line["key"]] = line
                    self.say(chosen(line))


def told(cell: Cell, line: Line) -> str:
    """One line about a cell that has ended."""
    name = f"{cell.method} on {cell.stream}, seed {cell.seed}"
    values = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in cell.values.items()
    )
    name += f" ({values})" if values else ""
    if "error" in line:
        return f"{name}: failed: {line['error']}"
    shown = {"AA": line["aa"], "BWT": line["bwt"], "LA": line["la"]}
    figures = ", ".join(f"{key} {100 * value:.1f}" for key, value in shown.items() if value is not None)
    return (
        f"{name}: {figures}, {line['kept']:,} parameters, {line['wall_s']:.0f} s ({line['train_s']:.0f} s of training)"
    )


def chosen(line: Line) -> str:
    """One line about what tuning has chosen."""
    tried = ", ".join(
        f"{each['values']}: " + ("failed" if each["validation_aa"] is None else f"{100 * each['validation_aa']:.1f}")
        for each in line["tried"]
    )
    return f"{line['method']}: chosen {line['chosen']} by validation AA on {line['stream']}; tried {tried}"
