"""Ray Tune at work on a sweep, and the log of its trials."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.experiment import Trial

from cluster.errors import Interrupted, TrainingError
from cluster.session import debugging
from cluster.storage import open_store
from cluster.temporary import temporary
from orchestrator.run.driver_log import DriverLog
from orchestrator.sweeps import results
from orchestrator.sweeps.capacity import spent
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.early_stopping import StreamScheduler
from orchestrator.sweeps.events import Ended, Outcome, Point
from orchestrator.sweeps.first_tasks import FirstTasks
from orchestrator.sweeps.pool_session import Session, imported_ahead
from orchestrator.sweeps.reports import Report, row_of
from orchestrator.sweeps.searcher import StreamSearch
from orchestrator.sweeps.space import Scalar, shown_values
from orchestrator.sweeps.sweep_state import SweepState
from orchestrator.sweeps.tracking import TrialTracking
from orchestrator.sweeps.trial import Shared, StreamTrial, first_task_key
from orchestrator.track.metrics import points
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track
from trainers.messages import Job
from trainers.workers.group import last_line

if TYPE_CHECKING:
    from trainers.models.base import Backbone
    from trainers.models.tokens import Rows, Tokenized

Say = Callable[[str], None]
Told = int | list[Trial]  # by Tune, beside what is asked for: the iteration and all trials
TRIAL_BYTES = 1_000_000  # of memory: a trial's actor asks for no CPU, and Tune refuses an empty request
RETRIES = 1  # of a trial whose actor failed
HOPELESS = 3
TUNE = {  # no signal handlers and no files of Tune's own; relative paths mean what they mean to the driver
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that is cut in its first task has none
}


class Tuning(tune.Callback):
    """Trains what the log lacks. It is the only one that writes trials and their outcomes to the log."""

    def __init__(self, config: SweepConfig, log: DriverLog[SweepState], say: Say) -> None:
        self.config, self.log, self.say = config, log, say
        self.tracking = TrialTracking(config, say)
        ended = [trial for trial in log.state.trials if trial.status != "running"]
        self.scheduler = StreamScheduler(config.stopping, config.length, ended)
        self.leaving: str | None = None  # the reason to begin no more trials

    def run(self, session: Session, reader: "Backbone", tasks: "Sequence[Rows | Tokenized]") -> str | None:
        """Trains trials on these tasks, as `check_tasks` gives them, until none is left or the budget is spent; in the
        latter case it returns the reason. If the session is told to leave, trials stop at their last commit or
        checkpoint."""
        os.environ.update(TUNE)
        if not debugging():
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # how trials end is said here
        config, self.session = session.config, session
        job = session.pool.begin(self._job(config, reader, tasks))
        imported_ahead(results.IMPORTS)
        self.first_tasks: ActorHandle = ray.remote(num_cpus=0)(FirstTasks).remote(self._trained(config))
        shared = Shared(
            config=config, tasks=self.log.state.tasks, pool=session.pool.client, job=job, first_tasks=self.first_tasks
        )
        searcher = StreamSearch(self.config, self.log.state, self._record, lambda: self.leaving is not None)
        with temporary("tune") as folder, closing(self.tracking):
            tune.run(  # and not a Tuner, which would pickle itself and all it is given into a file
                tune.with_parameters(StreamTrial, shared=shared), resources_per_trial={"memory": TRIAL_BYTES},
                search_alg=searcher, scheduler=self.scheduler, num_samples=-1, max_concurrent_trials=session.at_once,
                reuse_actors=True, max_failures=RETRIES, raise_on_failed_trial=False, callbacks=[self],
                name="sweep", storage_path=folder, verbose=0,
            )  # fmt: skip
        ray.kill(self.first_tasks)
        if why := hopeless(self.log.state):
            raise TrainingError(why)
        return self.leaving

    def _job(self, config: SweepConfig, reader: "Backbone", tasks: "Sequence[Rows | Tokenized]") -> Job:
        """The job of all trials' workers, without the base. Its data are placed in Ray's object store, as token ids."""
        from trainers.models.tokens import tokenize_task

        run = config.trial(1, {})
        light = replace(reader, model=None)

        def placed(task: "Rows | Tokenized") -> ray.ObjectRef:
            return ray.put(tokenize_task(deepcopy(light), task))  # a tokenizer serves one thread

        with ThreadPoolExecutor() as threads:
            held = tuple(threads.map(placed, tasks))
        return Job(f"{run.team}/{config.name}", run.model, run.adapter, run.train, run.deepspeed, run.store, held)

    def _trained(self, config: SweepConfig) -> dict[str, str]:
        """The runs of earlier starts that have committed a first task, by that task's key."""
        found: dict[str, str] = {}
        for trial in self.log.state.trials:
            if self._run_state(trial.run).commits:
                found.setdefault(first_task_key(config.trial(trial.number, trial.values)), trial.run)
        return found

    def _run_state(self, run: str) -> RunState:
        track = Track(open_store(self.config.run.store), self.config.run.team, run)
        return replay(track.team, track.name, track.entries())

    def _record(self, number: int, values: Mapping[str, Scalar]) -> None:
        """Logs a point that is chosen and not begun yet."""
        self.log.append(Point(number=number, values=dict(values), run=self.config.trial_name(number)))
        self.say(f"trial {number}: {shown_values(values)}")

    # --- what Tune calls; all in the driver's main thread

    def on_step_begin(self, **_: Told) -> None:
        """Leaves if the driver is told to, or if the budget is spent."""
        self.log.check()
        if self.leaving is None:
            try:
                self.session.stop()
                self.leaving = hopeless(self.log.state) or spent(
                    self.config, self.log.state, self.scheduler.measured, self.session.began
                )
            except Interrupted as error:
                self.leaving = str(error)
            if self.leaving:
                self.say(f"{self.leaving}; trials under way are kept where they stand")
                self.session.pool.leave()

    def on_trial_result(self, *, trial: Trial, result: Report, **_: Told) -> None:
        """Records a trial's newest row, and shows it."""
        if row := row_of(result):
            number = trial.config["number"]
            self.scheduler.measure(number, row)
            self.tracking.measured(number, trial.config["values"], row)
            if row.tasks > 1 or not result.get("quarantined"):
                self.first_tasks.settle.remote(self.config.trial_name(number), True)
            bwt = "" if row.bwt is None else f", BWT {points(row.bwt, 1)}"
            done = f"trial {number}: {row.tasks} of {self.config.length} tasks"
            self.say(f"{done}: AA {points(row.aa, 1)}{bwt}, {row.parameters:,} parameters")

    def on_trial_complete(self, *, trial: Trial, **_: Told) -> None:
        """Logs how a trial ended. A trial that was cut off has not ended."""
        result, number = trial.last_result or {}, trial.config["number"]
        self.first_tasks.settle.remote(self.config.trial_name(number), False)
        if result.get("cut"):
            return self.tracking.ended(number, "interrupted")
        decision = self.scheduler.stopped.get(number)
        reason = result.get("stopped") or (decision.reason if decision else None)
        if decision:
            self.log.decide(decision)
        return self._outcome(number, "stopped" if reason else "finished", reason)

    def on_trial_error(self, *, trial: Trial, **_: Told) -> None:
        """Logs why a trial failed. The reason is that of the run's log, if there is one."""
        number = trial.config["number"]
        self.first_tasks.settle.remote(self.config.trial_name(number), False)
        state = self._run_state(self.config.trial_name(number))
        said = state.driving.reason if state.status == "failed" else None
        self._outcome(number, "failed", said or last_line(trial.get_error()))

    def _outcome(self, number: int, status: Ended, reason: str | None) -> None:
        rows = tuple(self.scheduler.measured.get(number, ()))
        self.log.append(Outcome(number=number, status=status, reason=reason, rows=rows))
        self.tracking.ended(number, status)
        self.say(f"trial {number}: {status}{f': {reason}' if reason else ''}")


def hopeless(state: SweepState) -> str | None:
    """The reason to give up a sweep: all its first trials failed, HOPELESS of them or more."""
    failed = state.ended("failed")
    if len(failed) < HOPELESS or state.ended("finished") or state.ended("stopped"):
        return None
    return f"the first {len(failed)} trials failed, the last: {failed[-1].reason}; mend that, and give it a new name"
