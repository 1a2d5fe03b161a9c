"""Where trials come from: first points, no point twice, whole grids, and a study made again from the log."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.searcher import StreamSearch, excess, sampler, study_of
from orchestrator.sweeps.sweep_state import SweepTrial
from tests.support.sweeps import finished, row, state_of, sweep_of, trial

ALGORITHMS = ("tpe", "nsga2", "random", "grid")
T, R = "adapter.threshold", "adapter.max_rank"
SIDE, ENERGY, WEIGHT, MODE = (f"adapter.orthogonality.{key}" for key in ("side", "energy", "weight", "mode"))
STEPS: dict[str, Any] = {T: {"quniform": [0.1, 0.9, 0.1]}, R: {"choice": [4, 8, 16]}}
TREE: dict[str, Any] = {
    SIDE: {"choice": ["output", "both"]},
    ENERGY: {"quniform": [0.8, 0.9, 0.05], "when": {SIDE: ["both"]}},
    R: {"randint": [4, 7], "when": {SIDE: ["output"]}},
    MODE: {"choice": ["penalty", "projection"], "when": {SIDE: ["output"], R: [4, 5]}},
    WEIGHT: {"choice": [1.0, 5.0]},
}
Point = frozenset[tuple[str, Any]]


class Asked:
    """A searcher with what it recorded; asks as Tune does, a new id each time."""

    def __init__(self, config: SweepConfig, *trials: SweepTrial, closed: Callable[[], bool] = lambda: False) -> None:
        self.config, self.ids = config, itertools.count()
        self.recorded: list[tuple[int, dict[str, Any]]] = []
        self.search = StreamSearch(config, state_of(*trials), self._record, closed)

    def _record(self, number: int, values: Mapping[str, Any]) -> None:
        self.recorded.append((number, dict(values)))

    def ask(self) -> tuple[str, int, dict[str, Any]] | None:
        """Tune's id, number and values; None at the end."""
        name = f"id{next(self.ids)}"
        found = self.search.suggest(name)
        if found == Searcher.FINISHED:
            return None
        assert isinstance(found, dict) and {*found} == {"number", "values"}
        return name, found["number"], found["values"]

    def tell(self, name: str, last: Row | None, *, error: bool = False) -> None:
        result = None if error else {**last.model_dump(), "training_iteration": last.tasks} if last else {"tasks": 0}
        self.search.on_trial_complete(name, result, error)

    def take(self, count: int, *, tell: bool = True) -> list[tuple[int, dict[str, Any]]]:
        """Up to `count` points, each finished before the next."""
        found = []
        while len(found) < count and (asked := self.ask()):
            name, number, values = asked
            found.append((number, values))
            if tell:
                self.tell(name, row(4, 0.5 + number / 1000, 100 * number))
        return found

    @property
    def study(self) -> optuna.Study:
        return self.search._ot_study


def as_point(values: Mapping[str, Any]) -> Point:
    """Floats without the noise of their steps."""
    return frozenset((key, round(value, 9) if isinstance(value, float) else value) for key, value in values.items())


def tree() -> set[Point]:
    """Every point of TREE, by hand."""
    outputs = [{SIDE: "output", R: 6}]
    outputs += [{SIDE: "output", R: r, MODE: m} for r in (4, 5) for m in ("penalty", "projection")]
    boths = [{SIDE: "both", ENERGY: energy} for energy in (0.8, 0.85, 0.9)]
    return {as_point({**point, WEIGHT: weight}) for point in outputs + boths for weight in (1.0, 5.0)}


def of(algorithm: str, space: Mapping[str, Any] = STEPS, **sections: Any) -> SweepConfig:
    search = {"algorithm": algorithm, "startup_trials": 4, **sections.pop("search", {})}
    return sweep_of(space, search=search, **{"budget": {"hours": 1}, **sections})


# --- points


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_first_points_first_and_none_twice(algorithm: str) -> None:
    """`defaults` is also given by hand."""
    first = ["defaults", {T: 0.2, R: 4}, {T: 0.5, R: 16}, {R: 8}]
    asked = Asked(of(algorithm, search={"first": first}))
    found = asked.take(9)
    assert [number for number, _ in found] == [*range(1, 10)]
    assert [as_point(values) for _, values in found[:2]] == [as_point({T: 0.5, R: 16}), as_point({T: 0.2, R: 4})]
    assert found[2][1][R] == 8  # the rest of that point is drawn
    assert len({as_point(values) for _, values in found}) == 9
    assert asked.recorded == found
    space = asked.config.search.space
    assert all({*values} == {*space} and all(space[k].holds(v) for k, v in values.items()) for _, values in found)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_small_space_is_not_given_up_early(algorithm: str) -> None:
    """Of 27 points twenty are to be tried; a sampler that keeps to its favourites has to be helped out of them."""
    found = Asked(of(algorithm, budget={"trials": 20})).take(99)
    assert len({as_point(values) for _, values in found}) == 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_asked_for_twice_at_once(algorithm: str) -> None:
    """Trials under way count as well; where all points are out, that is said."""
    asked = Asked(of(algorithm, {R: {"choice": [4, 8, 16]}, MODE: {"choice": ["penalty", "projection"]}}))
    found = asked.take(99, tell=False)
    assert {as_point(values) for _, values in found} == {
        as_point({R: r, MODE: m}) for r in (4, 8, 16) for m in ("penalty", "projection")
    }
    assert len(found) == 6 and asked.ask() is None


@pytest.mark.parametrize(("seed", "tell"), [(0, True), (1, False)])
def test_a_grid_goes_through_every_point_once(seed: int, tell: bool) -> None:
    asked = Asked(of("grid", TREE, search={"seed": seed}))
    found = asked.take(99, tell=tell)
    assert len(found) == len(tree()) == 16 and {as_point(values) for _, values in found} == tree()
    assert asked.ask() is None and len(asked.recorded) == 16


@pytest.mark.parametrize("ended", [1, 7, 16])
def test_a_grid_is_gone_on_with(ended: int) -> None:
    """Some trials ended, one of them badly, and the last one was under way. A log has the keys of a point sorted."""
    before = Asked(of("grid", TREE)).take(ended)
    states = {1: "failed", 2: "stopped", ended: "running"}
    trials = [
        trial(number, [row(4, 0.5)], states.get(number, "finished"), dict(sorted(values.items())))  # type: ignore[arg-type]
        for number, values in before
    ]
    again = Asked(of("grid", TREE), *trials)
    found = again.take(99)
    if ended:
        assert found[0] == before[-1]
    assert {as_point(values) for _, values in [*before, *found]} == tree()
    assert len(again.recorded) == 16 - ended


def test_a_condition_leaves_keys_out() -> None:
    for _, values in Asked(of("random", TREE)).take(16):
        assert (ENERGY in values) == (values[SIDE] == "both") and (R in values) == (values[SIDE] == "output")
        assert (MODE in values) == (values.get(R) in (4, 5)) and WEIGHT in values


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_seed_decides(algorithm: str) -> None:
    runs = [Asked(of(algorithm, search={"seed": seed})).take(6) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler), ("nsga2", optuna.samplers.NSGAIISampler),
        ("random", optuna.samplers.RandomSampler), ("grid", optuna.samplers.BruteForceSampler),
    ],
)  # fmt: skip
def test_samplers(algorithm: str, kind: type) -> None:
    assert isinstance(sampler(of(algorithm).search), kind)


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("tpe", lambda: optuna.samplers.TPESampler(seed=5, n_startup_trials=4)),
        ("nsga2", lambda: optuna.samplers.NSGAIISampler(seed=5, population_size=4)),
        ("random", lambda: optuna.samplers.RandomSampler(seed=5)),
    ],
)
def test_points_are_those_of_optuna_alone(algorithm: str, make: Callable[[], Any]) -> None:
    """Asked and told directly; a point that came before is passed over, every fourth trial is stopped."""
    space = {T: {"uniform": [0.1, 0.9]}, "train.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    asked = Asked(of(algorithm, space, search={"seed": 5}, choice={"min_bwt": -0.1}))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make())
    seen: list[dict[str, float]] = []

    def drawn() -> tuple[optuna.trial.Trial, dict[str, float]]:
        alone = study.ask()
        rate = alone.suggest_float(T, 0.1, 0.9), alone.suggest_float("train.learning_rate", 1e-4, 1e-2, log=True)
        return alone, dict(zip(space, rate, strict=True))

    for number in range(1, 25):
        alone, expected = drawn()
        while expected in seen:  # as NSGA-II has children that are copies of a parent
            study.tell(alone, state=TrialState.FAIL)
            alone, expected = drawn()
        seen.append(expected)
        name, _, values = asked.ask() or ("", 0, {})
        assert values == expected
        aa, parameters, bwt = 1 - abs(values[T] - 0.7), 100 * number % 700, -0.02 * (number % 8)
        alone.set_constraint("bwt", -0.1 - bwt)
        if number % 4:
            study.tell(alone, [aa, parameters])
        else:
            study.tell(alone, state=TrialState.PRUNED)
        asked.tell(name, row(4 if number % 4 else 2, aa, parameters, bwt))


# --- the study


def recorded() -> tuple[SweepTrial, ...]:
    """Finished, stopped after two tasks, failed, under way twice."""
    return (
        finished(1, 0.8, 300, -0.02, threshold=0.1, max_rank=4),
        trial(2, [row(1, 0.9, 10), row(2, 0.9, 20, -0.3)], "stopped", {T: 0.2, R: 4}),
        trial(3, [], "failed", {T: 0.3, R: 8}),
        trial(4, [], "running", {T: 0.4, R: 8}),
        trial(5, [], "running", {T: 0.1, R: 16}),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_restart_goes_on_with_the_unfinished_ones(algorithm: str) -> None:
    first = [{T: 0.2, R: 4}, {T: 0.9, R: 16}, {T: 0.4}]  # the first and the last were begun already
    asked = Asked(of(algorithm, search={"first": first}), *recorded())
    found = asked.take(4)
    assert found[:2] == [(4, {T: 0.4, R: 8}), (5, {T: 0.1, R: 16})]
    assert (found[2][0], as_point(found[2][1])) == (6, as_point({T: 0.9, R: 16}))
    assert found[3][0] == 7 and asked.recorded == found[2:]
    begun = [as_point(each.values) for each in recorded()]
    assert as_point(found[3][1]) not in [*begun, as_point(found[2][1])]


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2", "random"])
def test_a_first_point_in_part_is_begun_once(algorithm: str) -> None:
    config = of(algorithm, {T: {"uniform": [0.1, 0.9]}, R: {"choice": [4, 8]}}, search={"first": [{T: 0.4}]})
    assert [values[T] == 0.4 for _, values in Asked(config).take(3)] == [True, False, False]
    again = Asked(config, finished(1, 0.5, 100, threshold=0.4, max_rank=8)).take(3)
    assert [values[T] == 0.4 for _, values in again] == [False, False, False]


def test_a_long_sweep_is_not_over_when_it_is_started_again() -> None:
    """The same seed draws the points of the first start once more; they are passed over, however many there are."""
    config = of("random", {T: {"uniform": [0.1, 0.9]}})
    before = Asked(config).take(105)
    assert len(before) == 105
    trials = [trial(number, [row(4, 0.5)], values=values) for number, values in before]
    again = Asked(config, *trials).take(2)
    assert [number for number, _ in again] == [106, 107]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_that_went_through_the_log_are_taken_as_they_are(algorithm: str) -> None:
    """The exact float, not the nearest one on a step."""
    values = json.loads(json.dumps({T: 0.1 + 2 * 0.1, R: 8}))
    assert Asked(of(algorithm), trial(1, [], "running", values)).take(1) == [(1, values)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_study_knows_how_trials_ended(algorithm: str) -> None:
    asked = Asked(of(algorithm), *recorded())
    ended = asked.study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    assert [(each.state, each.values, each.params) for each in ended] == [
        (TrialState.COMPLETE, [0.8, 300], {T: 0.1, R: 4}),
        (TrialState.PRUNED, None, {T: 0.2, R: 4}),
        (TrialState.FAIL, None, {T: 0.3, R: 8}),
    ]
    assert [direction.name for direction in asked.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [(each.state, each.values) for each in study_of(asked.config, recorded()).trials] == [
        (each.state, each.values) for each in ended
    ]


def test_nsga2_goes_on_with_the_population_of_earlier_starts() -> None:
    """With four to a generation, the eight trials of an earlier start are its parents: the ninth is no random point."""
    config = of("nsga2", {T: {"uniform": [0.1, 0.9]}}, search={"startup_trials": 4})
    trials = [finished(n, 1 - abs(n / 10 - 0.5), 100, threshold=n / 10) for n in range(1, 9)]
    study = Asked(config, *trials).study
    known: Any = study.sampler
    generation = known.get_trial_generation(study, study.ask()._cached_frozen_trial)
    assert generation > 0 and len(known.get_population(study, generation - 1)) >= 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_trial_is_told_as(algorithm: str) -> None:
    """Only one that did all four tasks has values; the others measured something else."""
    asked = Asked(of(algorithm))
    ends: list[tuple[Row | None, bool]] = [
        (row(4, 0.7, 90), False),
        (row(2, 0.9, 10), False),
        (None, False),
        (None, True),
    ]
    for last, error in ends:
        name, *_ = asked.ask() or ("",)
        asked.tell(name, last, error=error)
    assert [(each.state, each.values) for each in asked.study.trials] == [
        (TrialState.COMPLETE, [0.7, 90]),
        (TrialState.PRUNED, None),
        (TrialState.PRUNED, None),
        (TrialState.FAIL, None),
    ]


# --- what is not to be exceeded


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("most", "numbers"), [(1, [4, 5]), (5, [4, 5]), (6, [4, 5, 6]), (8, [4, 5, 6, 7, 8])])
def test_the_budget_counts_trials_of_all_starts(algorithm: str, most: int, numbers: list[int]) -> None:
    """Those under way are ended whatever it says."""
    asked = Asked(of(algorithm, budget={"trials": most}), *recorded())
    assert [number for number, _ in asked.take(99)] == numbers
    assert asked.ask() is None


def test_the_budget_from_the_beginning() -> None:
    asked = Asked(of("random", budget={"trials": 3}, search={"first": ["defaults"]}))
    assert len(asked.take(99)) == 3 and [number for number, _ in asked.recorded] == [1, 2, 3]


def test_nothing_is_begun_once_it_is_closed() -> None:
    leaving = [False]
    asked = Asked(of("random"), *recorded(), closed=lambda: leaving[0])
    assert asked.ask()
    leaving[0] = True
    assert asked.ask() is None and asked.recorded == []


@pytest.mark.parametrize(
    ("bwt", "bound", "expected"),
    [(-0.1, -0.05, 0.05), (-0.05, -0.05, 0.0), (0.1, 0.0, -0.1), (None, -0.05, 0.0), (-0.9, None, 0.0)],
)
def test_excess(bwt: float | None, bound: float | None, expected: float) -> None:
    assert excess(row(4, 0.5, bwt=bwt), bound) == pytest.approx(expected)
    assert excess(None, bound) == 0


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_the_bound_on_bwt_is_optunas_constraint(algorithm: str) -> None:
    """Trial 1 dominates, and forgets too much: Optuna takes it for no best trial, be it told live or from the log."""
    config = of(algorithm, choice={"min_bwt": -0.05})
    ends = [(0.9, 10, -0.2), (0.8, 20, -0.01), (0.7, 30, 0.0)]
    live = Asked(config)
    for aa, parameters, bwt in ends:
        name, *_ = live.ask() or ("",)
        live.tell(name, row(4, aa, parameters, bwt))
    trials = [finished(n, *end, threshold=0.1 * n, max_rank=4) for n, end in enumerate(ends, 1)]
    for study in (live.study, study_of(config, trials), Asked(config, *trials).study):
        told = [list(each.constraints.values()) for each in study.get_trials(states=(TrialState.COMPLETE,))]
        assert told == [[pytest.approx(0.15)], [pytest.approx(-0.04)], [pytest.approx(-0.05)]]
        assert [each.values for each in study.best_trials] == [[0.8, 20]]


def test_without_a_bound_nothing_is_infeasible() -> None:
    config = of("tpe")
    trials = [finished(1, 0.9, 10, -0.9, threshold=0.1, max_rank=4), finished(2, 0.8, 20, threshold=0.2, max_rank=4)]
    assert [each.values for each in study_of(config, trials).best_trials] == [[0.9, 10]]


def test_nothing_is_saved(tmp_path: Any) -> None:
    Asked(of("tpe")).search.save(str(tmp_path / "state"))
    assert [*tmp_path.iterdir()] == []
