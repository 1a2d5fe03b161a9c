"""The source of trials: Ray Tune's OptunaSearch, made to go on from the sweep's own log.

Tune would keep a searcher's state as a pickle. Here the study is made again from the trials in the log at each start:
it is told the trials that ended. The others are suggested again first.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from orchestrator.sweeps.config import SearchConfig, SweepConfig
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.reports import Report, TrialConfig, row_of
from orchestrator.sweeps.space import Parameter, Scalar, suggested
from orchestrator.sweeps.sweep_state import SweepState, SweepTrial

OBJECTIVES = {"aa": StudyDirection.MAXIMIZE, "parameters": StudyDirection.MINIMIZE}
STUDY, BWT = "orthoplex", "bwt"
GENERATION = "NSGAIISampler:generation"  # where Optuna keeps it
ASKS = 50  # points asked for in a row until one is new

optuna.logging.set_verbosity(optuna.logging.ERROR)


def study_of(config: SweepConfig, trials: Sequence[SweepTrial]) -> optuna.Study:
    """An in-memory study over AA and parameters that knows how the trials ended. Finished trials have their values,
    stopped ones are pruned, failed ones are failed. They are the first generations of NSGA-II."""
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), study_name=STUDY, sampler=sampler(config.search, len(trials)),
        directions=list(OBJECTIVES.values()),
    )  # fmt: skip
    generations = count()
    told = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    for trial in trials:
        if trial.status in told:
            finished, row, values = trial.status == "finished", trial.last, in_order(config, trial.values)
            study.add_trial(
                create_trial(
                    state=told[trial.status],
                    values=[row.aa, row.parameters] if finished and row else None,
                    params=values,
                    distributions={key: config.search.space[key].distribution() for key in values},
                    constraints={BWT: excess(row, config.choice.min_bwt)},
                    system_attrs={GENERATION: next(generations) // population(config.search)} if finished else {},
                )
            )
    return study


class Grid(optuna.samplers.BruteForceSampler):
    """Every point of a finite space. A key under an unmet condition adds no points. Optuna's sampler ends the study's
    loop after the last point. Here the study has no loop; `StreamSearch` notices that nothing new comes."""

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See BaseSampler."""
        with suppress(RuntimeError):
            super().after_trial(study, trial, state, values)


def in_order(config: SweepConfig, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """A point with its keys in the order of the space. A log sorts its keys, and a grid is a tree that depends on their
    order."""
    return {key: values[key] for key in config.search.space if key in values}


def sampler(search: SearchConfig, begun: int = 0) -> optuna.samplers.BaseSampler:
    """Optuna's sampler for the algorithm. TPE and NSGA-II take the bound on BWT as a constraint. A sweep that goes on
    after `begun` trials draws other numbers than at first."""
    seed = search.seed + begun
    match search.algorithm:
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population(search))
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
    return grid(seed)


def grid(seed: int) -> Grid:
    """A grid without Optuna's warning that its sampler is experimental. The tests cover what is used of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return Grid(seed=seed)


def population(search: SearchConfig) -> int:
    """The number of trials per generation of NSGA-II."""
    return max(2, search.startup_trials)


def excess(row: Row | None, min_bwt: float | None) -> float:
    """The distance of BWT below its bound, min_bwt − BWT; 0 if there is no bound or nothing was measured."""
    return min_bwt - row.bwt if row and row.bwt is not None and min_bwt is not None else 0.0


class StreamSearch(OptunaSearch):
    """Suggests {"number", "values"}: first unfinished trials of an earlier start, then the first points, then the
    sampler's own. No point comes twice. `record` is called with each new one before it is begun. If `closed` returns
    True, nothing more is suggested.

    A trial counts for the sampler once all its tasks are done. A stopped trial has values of fewer tasks, so the
    sampler is told that it was pruned.
    """

    def __init__(
        self,
        config: SweepConfig,
        state: SweepState,
        record: Callable[[int, Mapping[str, Scalar]], None],
        closed: Callable[[], bool],
    ) -> None:
        """`state` is the state of the sweep at this start."""
        self.sweep, self.record, self.closed = config, record, closed
        self.known = {trial.number: in_order(config, trial.values) for trial in state.trials}
        self.waiting = [trial.number for trial in state.trials if trial.status == "running"]
        study = study_of(config, state.trials)
        for number in self.waiting:
            study.enqueue_trial(self.known[number])
        for point in config.first_points():
            if not any(point.items() <= values.items() for values in self.known.values()):
                study.enqueue_trial(point)
        space: dict[str, Parameter] = config.search.space
        super().__init__(
            space=lambda trial: suggested(space, trial), metric=list(OBJECTIVES), mode=["max", "min"],
            storage=study._storage, study_name=STUDY, sampler=study.sampler,
        )  # fmt: skip

    def suggest(self, trial_id: str) -> TrialConfig | str | None:
        """The next point; FINISHED if there is none."""
        if self.closed() or (not self.waiting and self._enough()):
            return str(Searcher.FINISHED)
        if self.waiting:
            super().suggest(trial_id)  # the study has it as its next point
            number = self.waiting.pop(0)
            values = self.known[number]
        elif (new := self._new(trial_id)) is None:
            return str(Searcher.FINISHED)
        else:
            values, number = new, len(self.known) + 1
            self.record(number, values)
            self.known[number] = values
        return {"number": number, "values": values}

    def on_trial_complete(self, trial_id: str, result: Report | None = None, error: bool = False) -> None:
        """Tells the study how a trial ended."""
        row = row_of(result)
        self._ot_trials[trial_id].set_constraint(BWT, excess(row, self.sweep.choice.min_bwt))
        whole = row is not None and row.tasks == self.sweep.length and not error
        super().on_trial_complete(trial_id, result if whole else None, error)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the sweep goes on from its log."""

    def _enough(self) -> bool:
        most = self.sweep.budget.trials
        return most is not None and len(self.known) >= most

    def _new(self, trial_id: str) -> dict[str, Scalar] | None:
        """A point that was not tried; None if none is found. Optuna is told that a repeated point failed.

        A sampler that stays near the best points may repeat itself for ever. After ASKS repetitions the point is drawn
        at random, or from the rest of the grid if the space is finite.
        """
        own = self._ot_study.sampler
        try:
            return self._asked(trial_id)
        finally:
            self._ot_study.sampler = own

    def _asked(self, trial_id: str) -> dict[str, Scalar] | None:
        for ask in range(2 * (ASKS + len(self.known))):  # a value that rounding moved off its step comes twice
            if ask == ASKS:
                finite = all(parameter.finite for parameter in self.sweep.search.space.values())
                seed = self.sweep.search.seed + len(self.known)
                self._ot_study.sampler = grid(seed) if finite else optuna.samplers.RandomSampler(seed=seed)
            values: dict[str, Scalar] = dict(super().suggest(trial_id) or {})
            if values not in self.known.values():
                return values
            self._ot_study.tell(self._ot_trials.pop(trial_id), state=TrialState.FAIL)
        return None
