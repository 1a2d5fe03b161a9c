"""How a driver follows a task in training, and reports it."""

import math
import time
from typing import Protocol

from cluster.resources import ClusterConfig
from cluster.session import reap, reserved
from orchestrator.run.driver_log import RunLog
from orchestrator.track.events import CheckpointTold, Position, Renew, Workers
from orchestrator.track.state import RunState
from trainers.messages import Checkpointed, Progress, Said, Started, Watched

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
        self.stored: CheckpointTold | None = None
        self._wait()

    def __call__(self, event: Watched | None) -> None:
        """Takes an event of the worker group; None if nothing happened."""
        match event:
            case Started():
                self._started(event)
            case Progress():
                self.waiting = False
                if event.phase == "resume" and event.step > self.kept:
                    self.kept, self.failures = event.step, 0  # it got further since the failure before
                position = Position(
                    index=event.index, phase=event.phase, step=event.step, total_steps=event.total_steps
                )
                felt = {} if math.isnan(event.functional) else {"functional": event.functional}
                self._at(position.model_copy(update=felt))
                self.reporter.progress(self.task, event)
            case Checkpointed():
                self._checkpointed(event)
            case Said():
                self.reporter.say(event.line)
            case None if self.waiting and time.time() > self.look_at:
                self._look()

    def _at(self, position: Position) -> None:
        """The next `renew` entry says so, and which checkpoint was stored last."""
        self.log.progress = position.model_copy(update={"checkpoint": self.stored}) if self.stored else position

    def _checkpointed(self, event: Checkpointed) -> None:
        """Has the log name a checkpoint: at once if no other than a named one may be resumed from."""
        told = event.told
        self.stored = CheckpointTold(step=told.step, sha256=told.sha256, of=told.of)
        self._at(Position(index=event.index, phase="train", step=told.step, total_steps=event.total_steps))
        if self.log.track.trust.required:
            self.log.append(Renew(progress=self.log.progress))

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
