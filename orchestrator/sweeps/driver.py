"""The driver of a sweep: it has Ray Tune train trials, and logs them. It may die at any instant and be started again.
The sweep's log says which trials there are and how they ended. Each trial's run holds its tasks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.errors import ConfigError
from cluster.storage import open_store, probe
from orchestrator.log.event import events
from orchestrator.run.changes import default_before, going_on, put_back
from orchestrator.run.driver_log import DriverLog
from orchestrator.run.workers import base_now, check_tasks, describe_tasks, load_tasks
from orchestrator.sinks.opening import check_tracking
from orchestrator.sweeps import results
from orchestrator.sweeps.capacity import spent
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import KNOWN, PoolSize
from orchestrator.sweeps.pool_session import session
from orchestrator.sweeps.sweep_state import SweepState, replay_sweep, sweep_changes, sweep_log, sweep_objections
from orchestrator.track.events import Finish, Open, TaskDescription
from orchestrator.track.provenance import code_version
from orchestrator.track.state import replay
from orchestrator.track.track import Track

if TYPE_CHECKING:
    from trainers.models.base import Backbone
    from trainers.models.tokens import Rows, Tokenized

Say = Callable[[str], None]
BY_LOSS = (
    "all tasks are judged by their loss; AA, BWT and forgetting of this sweep are of exp(-nll), which is the geometric "
    "mean of a token's probability"
)


class Sweep:
    """Runs one sweep to its end, or to the end of its budget. `run` is idempotent by team and name."""

    def __init__(self, config: SweepConfig, say: Say) -> None:
        """Reads the sweep's log."""
        self.say = say
        self.store = open_store(config.run.store)
        self.log = DriverLog(sweep_log(self.store, config.run.team, config.name), replay_sweep, "sweep", KNOWN)
        self.config = going_on(config, self.state.config)
        self.content = self.config.model_dump(mode="json")

    @property
    def state(self) -> SweepState:
        """Where the sweep stands."""
        return self.log.state

    def run(self) -> SweepState:
        """Goes on with the trials that did not end, then with new ones; returns at once if there is nothing to do.

        Raises:
            ConfigError: configuration, data or base differ from what the sweep was begun with, or do not go together.
            ConflictError: another driver is at work on it. Interrupted: Ctrl-C or SIGTERM; the result as it stands is
            written. TrainingError, StoreError: as named.
        """
        check_tracking(self.config.tracking)
        self.config.run.adapter.check_installed()
        self._check()
        if self._complete():
            if not self._as_begun("choice"):
                self._lead(self._choose_anew)
            return self.state
        probe(self.store)
        self._lead(self._tune)
        return self.state

    def _lead(self, work: Callable[[], str | None]) -> None:
        """Does the work as the sweep's driver, then chooses from what there is; logs how it left."""
        lease_s = self.config.run.cluster.lease_s
        self.log.take(code_version()["packages"], lease_s, self.say)
        with self.log.left(), self.log.kept(lease_s):
            self._check()
            try:
                reason = work()
            finally:
                self._choose()
        self.log.append(Finish(reason=reason))

    def _tune(self) -> str | None:
        """Trains trials. Returns why it ended before all were through, None if they are."""
        with session(self.config, self.say) as started:
            cluster = started.config.run.cluster.model_dump(mode="json")
            self.log.append(PoolSize(slots=started.at_once, cluster=cluster))
            tasks = self._load()
            from orchestrator.sweeps.tuning import Tuning  # seconds, while workers start

            return Tuning(self.config, self.log, self.say).run(started, *tasks)

    def _load(self) -> "tuple[Backbone, list[Rows | Tokenized]]":
        """What `check_tasks` gives; logs what is about to be done. Raises ConfigError as `run`."""
        from trainers.methods.registry import check_method

        first = self.config.trial(1, {})
        model, _ = check_method(first.model, first.adapter, first.train)
        if all(first.by_loss):
            self.say(f"note: {BY_LOSS}")
        self.say(f"reading the data of {len(first.tasks)} tasks")
        data = load_tasks(first, self.say)
        checked = check_tasks(first, data, model)
        described = tuple(describe_tasks(first, data))
        self._check(described, self._base_faults())
        self._open(described)
        return checked

    def _choose_anew(self) -> str | None:
        """Nothing is left to train, only the rule is another. Returns why the sweep had ended."""
        ends = [event for _, event in events(self.log.entries, Finish)]
        self._open(self.state.tasks)
        return ends[-1].reason if ends else None

    def _open(self, tasks: tuple[TaskDescription, ...]) -> None:
        """Logs what is about to be done, if that is new."""
        if self.content != self.state.config or tasks != self.state.tasks:
            self.log.append(Open(config=self.content, tasks=tasks))

    def _choose(self) -> None:
        """Logs the front and the recommended point as they stand, if they are new and there is anything to choose."""
        if not self.state.trials:
            return
        chosen, files = results.conclude(self.config, self.state)
        if not chosen.same(self.state.choice):
            self.log.append(results.publish(self.store, self.log.log, chosen, files))

    def _base_faults(self) -> list[str]:
        """What is not as it was of the base on which the first trial that tells it was begun, one line each."""
        run = self.config.run
        for trial in self.state.trials:
            track = Track(self.store, run.team, self.config.trial_name(trial.number))
            begun = replay(run.team, track.name, track.entries())
            if begun.base.tokenizer or begun.base.config:
                return [f"model.name: {line}" for line in begun.base.differences(base_now(begun, run.model))]
        return []

    def _check(self, tasks: Sequence[TaskDescription] = (), more: Sequence[str] = ()) -> None:
        if faults := [*sweep_objections(self.state, self.content, tasks, self.config), *more]:
            changes = sweep_changes(self.state, self.content, self.config)
            defaults = put_back([each for change in changes if (each := default_before(change, self.config))])
            lines = [f"  {fault}" for fault in faults] + ["Put these back, or give the sweep another `name`", defaults]
            raise ConfigError("\n".join([f"the sweep {self.config.name!r} was begun otherwise:", *filter(None, lines)]))

    def _complete(self) -> bool:
        """Whether the budget, as it is now, leaves nothing to do."""
        budget = self.config.budget
        if self.state.status != "finished" or spent(self.config, self.state, {}):
            return self.state.status == "finished"
        if self.state.ended("running"):
            return False
        return self._as_begun("budget") or (budget.trials is not None and len(self.state.trials) >= budget.trials)

    def _as_begun(self, section: str) -> bool:
        """Whether a section is as the log has it."""
        return self.state.config.get(section) == self.content[section]
