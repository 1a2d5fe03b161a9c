"""How a driver follows a task in training, and reports it."""

import math
import time
from typing import Protocol

from cluster.resources import ClusterConfig
from cluster.session import reap, reserved
from orchestrator.run.driver_log import RunLog
from orchestrator.track.events import Position, Workers
from orchestrator.track.state import RunState
from trainers.messages import Progress, Started

REAP_S, PATIENCE_S = 10.0, 60.0  # between two looks at a wait for workers; until the wait is reported


class Reporter(Protocol):
    """Shows a run as it goes."""

    def say(self, message: str) -> None:
        """Shows one line about what happens now."""

    def taken(self, state: RunState) -> None:
        """This driver has the run, and goes on with it from here."""

    def progress(self, task: str, progress: Progress) -> None:
        """Shows the progress of a task."""

    def committed(self, state: RunState) -> None:
        """Shows a task that was just committed, the last of `state.commits`."""


class Watch:
    """Follows one task's training: tells the reporter, logs every worker group, counts failures in a row."""

    def __init__(self, task: str, cluster: ClusterConfig, reporter: Reporter, log: RunLog) -> None:
        self.task, self.cluster, self.reporter, self.log = task, cluster, reporter, log
        self.workers, self.failures, self.kept = cluster.num_workers.max, 0, 0
        self._wait()

    def __call__(self, event: Started | Progress | None) -> None:
        """Takes an event of the worker group; None if nothing happened."""
        match event:
            case Started():
                self._started(event)
            case Progress():
                self.waiting = False
                if event.phase == "resume" and event.step > self.kept:
                    self.kept, self.failures = event.step, 0  # it got further since the failure before
                felt = {} if math.isnan(event.functional) else {"functional": event.functional}
                self.log.progress = Position(
                    index=event.index, phase=event.phase, step=event.step, total_steps=event.total_steps, **felt
                )
                self.reporter.progress(self.task, event)
            case None if self.waiting and time.time() > self.look_at:
                self._look()

    def broke(self) -> None:
        """Counts a group that broke. Another is being started."""
        self.failures += 1
        self._wait()

    def _wait(self) -> None:
        self.asked, self.waiting, self.silent = time.time(), True, True
        self.look_at = self.asked + REAP_S

    def _started(self, event: Started) -> None:
        self.workers, self.waiting = event.workers, False
        seconds = {"workers": event.began - self.asked, **event.seconds}
        self.log.append(Workers(workers=event.workers, seconds=seconds))
        if self.cluster.num_workers.elastic:
            self.reporter.say(f"{event.workers} workers are training")

    def _look(self) -> None:
        """Frees the placement groups of dead drivers. Says once what the run is waiting for."""
        import ray

        self.look_at = time.time() + REAP_S
        reap()
        if self.silent and time.time() - self.asked > PATIENCE_S:
            self.silent = False
            what = self.cluster.awaited(ray.cluster_resources(), ray.available_resources(), reserved())
            self.reporter.say(f"still waiting for workers: {what}")
