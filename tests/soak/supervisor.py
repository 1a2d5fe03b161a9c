"""Starts a run, starts it again whenever it ends early, as a service manager would, and has faults happen meanwhile."""

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.soak.faults import Fault
from tests.soak.memory import anonymous_bytes
from tests.support.tiny_run import REPO

POLL_S, MOST_IN_VAIN, SILENCE_S = 0.1, 6, 300.0
COMMITTED = re.compile(r"committed as \S+@v(\d+);")
Workers = Callable[[int], Sequence[psutil.Process]]


@dataclass
class TaskCost:
    """What was seen when a task was committed: seconds since the commit before it, the driver that committed it, from
    1, and the memory of driver and workers in bytes."""

    task: int
    seconds: float
    start: int
    driver: int
    workers: list[int]

    def shown(self) -> str:
        """One line."""
        workers = ", ".join(f"{each / 1e6:.1f}" for each in self.workers)
        memory = f"driver {self.driver / 1e6:.1f} MB, workers {workers or 'none'} MB"
        return f"task {self.task}: {self.seconds:.2f} s, {memory}, driver number {self.start}"


@dataclass
class Record:
    """What happened in a run."""

    seconds: float = 0.0
    starts: int = 0
    kills: dict[str, int] = field(default_factory=lambda: {"driver": 0, "worker": 0})
    outages: int = 0
    codes: list[int] = field(default_factory=list)
    tasks: list[TaskCost] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Record":
        """The record in a file; an empty one if there is none."""
        if not path.exists():
            return cls()
        content = json.loads(path.read_text())
        return cls(**{**content, "tasks": [TaskCost(**each) for each in content["tasks"]]})


def workers_below(pid: int) -> list[psutil.Process]:
    """The workers of a driver that has a Ray of its own."""
    try:
        return [each for each in psutil.Process(pid).children(recursive=True) if "RayTrainWorker" in each.name()]
    except psutil.Error:
        return []


class Supervised:
    """A run that is kept going. `away` takes its store away, or gives it back."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        say: Callable[[str], None],
        *,
        away: Callable[[bool], None] = lambda _: None,
        workers: Workers = workers_below,
        environment: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.words, self.say, self.away, self.workers = words, say, away, workers
        self.log, self.kept = folder / "log", folder / "record.json"
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.draw, self.record = random.Random(seed), Record.read(self.kept)
        self.learned = self.record.tasks[-1].task if self.record.tasks else 0
        self.read = self.log.stat().st_size if self.log.exists() else 0
        self.vain = 0
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, faults: Sequence[Fault] = ()) -> Record:
        """The run to its end; faults before the point where it is are left out. Raises RuntimeError if it ends early
        too often without a commit, or falls silent."""
        left = [fault for fault in faults if fault.after >= self.learned]
        try:
            self._start()
            while not self._finished():
                self._follow()
                if left and self.learned >= left[0].after:
                    self._happen(left.pop(0))
                time.sleep(POLL_S)
        finally:
            self.away(False)
            self._kill()
            self._keep()
        return self.record

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.words, cwd=REPO, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
        self.record.starts += 1
        self.changed = time.monotonic()

    def _finished(self) -> bool:
        """Whether the run has finished; if it ended otherwise, it is started again."""
        assert self.process
        if (code := self.process.poll()) is None:
            if time.monotonic() - self.changed > SILENCE_S:
                raise RuntimeError(f"nothing was committed for {SILENCE_S:.0f} s, see {self.log}")
            return False
        self._follow()
        self.record.codes.append(code)
        if code == 0:
            return True
        if [task.start for task in self.record.tasks[-1:]] != [self.record.starts]:
            self.vain += 1
        ended = f"ended with {code}"
        if self.vain > MOST_IN_VAIN:
            raise RuntimeError(f"{ended}, {self.vain} times without a commit, see {self.log}")
        self._start()
        return False

    def _follow(self) -> None:
        """Takes in the commits that the run has told of."""
        with self.log.open("rb") as file:
            file.seek(self.read)
            text = file.read()
        whole = text.rpartition(b"\n")[0]
        self.read += len(whole)
        for match in COMMITTED.finditer(whole.decode("utf-8", "replace")):
            self._committed(int(match[1]))

    def _committed(self, version: int) -> None:
        assert self.process
        now = time.monotonic()
        seconds, self.changed, self.learned, self.vain = now - self.changed, now, version, 0
        workers = [anonymous_bytes(each.pid) for each in self.workers(self.process.pid)]
        driver = anonymous_bytes(self.process.pid)
        self.record.tasks.append(TaskCost(version, seconds, self.record.starts, driver, workers))
        self.record.seconds += seconds
        self.say(self.record.tasks[-1].shown())
        self._keep()

    def _keep(self) -> None:
        self.kept.write_text(json.dumps(asdict(self.record)))

    def _happen(self, fault: Fault) -> None:
        """Does what a fault says. The run is not waited for."""
        self._pass(fault.delay_s)
        assert self.process
        self.say(f"fault: {fault.what}, {fault.delay_s:.1f} s after task {self.learned}")
        if fault.what == "store":
            self.away(True)
            self.record.outages += 1
            self._pass(fault.away_s)
            self.away(False)
        elif fault.what == "driver":
            self._killed_driver()
            if fault.again_s:
                self._pass(fault.again_s)
                self._killed_driver()
        else:
            while self.process.poll() is None and not (found := self.workers(self.process.pid)):
                time.sleep(POLL_S)
            if self.process.poll() is None:
                self.draw.choice(found).kill()
                self.record.kills["worker"] += 1

    def _pass(self, seconds: float) -> None:
        """Follows the run for a time; it is started again if it ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._finished():
            self._follow()
            time.sleep(POLL_S)

    def _killed_driver(self) -> None:
        assert self.process
        if self.process.poll() is None:
            self._kill()
            self._follow()
            self.record.kills["driver"] += 1
            self.record.codes.append(self.process.wait())
            self._start()

    def _kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def figures(record: Record) -> dict[str, Any]:
    """The record without its tasks."""
    return {
        "seconds": round(record.seconds, 1), "starts": record.starts, "kills": record.kills,
        "outages": record.outages, "codes": {str(code): record.codes.count(code) for code in {*record.codes}},
    }  # fmt: skip
