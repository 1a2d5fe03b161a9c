"""A searched key draws what Ray Tune's distribution of that name draws; a space that cannot be trained is refused."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from pydantic import ValidationError
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from cluster.errors import ConfigError
from orchestrator.config.errors import key_paths
from orchestrator.config.run import RunConfig
from orchestrator.sweeps.config import value_at
from orchestrator.sweeps.space import (
    FIXED,
    MAPPINGS,
    Parameter,
    own_keys,
    searchable,
    shown_values,
    space_faults,
    suggested,
)
from tests.support.sweeps import line_of, run_content, sweep_of

SEARCHABLE = {
    "adapter.max_rank", "adapter.threshold", "adapter.budget_weight", "adapter.min_rank", "adapter.max_parameters",
    "adapter.history", "adapter.rounding", "adapter.orthogonality.weight",
    "adapter.orthogonality.mode", "adapter.orthogonality.side", "adapter.orthogonality.energy",
    "adapter.orthogonality.max_occupancy", "adapter.orthogonality.saturation", "adapter.initial",
    "adapter.train_down", "adapter.functional.weight", "adapter.functional.directions",
    "adapter.functional.metric", "adapter.functional.tasks", "train.epochs",
    "train.batch_size",
    "train.learning_rate", "train.budget_learning_rate_factor", "train.warmup_steps", "train.weight_decay",
    "train.max_grad_norm", "train.seed", "train.min_steps", "train.max_steps",
    "adapter.rank", "adapter.alpha", "adapter.dropout", "adapter.mode", "adapter.orthogonality_weight",
    "adapter.norm_weight", "adapter.energy", "adapter.horizon", "adapter.alignment_weight", "adapter.initial_rank",
    "adapter.initial_share", "adapter.final_share", "adapter.interval", "adapter.beta1", "adapter.beta2",
    "adapter.weight", "adapter.decay", "adapter.fisher_rows", "adapter.effective_rank", "adapter.projection",
    "adapter.rank_growth",
}  # fmt: skip
KINDS: dict[str, list[Any]] = {
    "uniform": [0.25, 0.75],
    "quniform": [0.5, 2.0, 0.25],
    "loguniform": [0.001, 0.1],
    "randint": [2, 7],
    "qrandint": [4, 16, 4],
    "lograndint": [1, 9],
    "choice": ["output", 3, None, True, 0.5],
}
DISCRETE = {  # a net of candidates finer and wider than the distribution
    "quniform": [step / 20 for step in range(60)],
    "randint": [*range(-2, 12)],
    "qrandint": [*range(-2, 24)],
    "lograndint": [*range(-2, 14)],
    "choice": ["output", "input", 3, 4, None, True, False, 0.5, 1],
}
RUN = RunConfig.model_validate(run_content())
LORA = RunConfig.model_validate(run_content(adapter={"method": "lora", "target_modules": ["output.dense"]}))


def domain(kind: str) -> Any:
    """Ray Tune's own of that name."""
    make = getattr(tune, kind)
    return make(KINDS[kind]) if kind == "choice" else make(*KINDS[kind])


def parameter(kind: str, *values: Any, **when: Any) -> Parameter:
    return Parameter.model_validate({kind: list(values), "when": when})


def space(**keys: Any) -> dict[str, Parameter]:
    """Keys below `adapter`, __ for a dot."""
    return {f"adapter.{key.replace('__', '.')}": Parameter.model_validate(value) for key, value in keys.items()}


def faults(content: Mapping[str, Any], algorithm: str = "tpe", run: RunConfig = RUN) -> list[str]:
    return space_faults({key: Parameter.model_validate(value) for key, value in content.items()}, algorithm, run)


# --- distributions


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_is_the_one_ray_tune_makes(kind: str) -> None:
    assert (
        Parameter(**{kind: KINDS[kind]}).distribution() == OptunaSearch.convert_search_space({"a": domain(kind)})["a"]
    )


@pytest.mark.parametrize("kind", DISCRETE)
def test_it_holds_exactly_what_ray_tune_draws(kind: str) -> None:
    drawn = domain(kind).sample(size=2000, random_state=0)
    drawn = drawn.tolist() if kind in ("randint", "lograndint") else drawn  # NumPy's numbers
    values = {repr(round(value, 9) if isinstance(value, float) else value) for value in drawn}
    assert {repr(value) for value in DISCRETE[kind] if Parameter(**{kind: KINDS[kind]}).holds(value)} == values


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_continuous_ones_hold_both_ends(kind: str) -> None:
    found, (low, high) = Parameter(**{kind: KINDS[kind]}), KINDS[kind]
    assert all(found.holds(value) for value in [low, high, *domain(kind).sample(size=500, random_state=0)])
    assert not found.holds(math.nextafter(low, 0)) and not found.holds(math.nextafter(high, 1))
    assert not found.holds(math.nan)
    assert found.ends() == (low, high)


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("quniform", (0.5, 2.0)), ("randint", (2, 6)), ("qrandint", (4, 16)), ("lograndint", (1, 8)),
        ("choice", ("output", 3, None, True, 0.5)),
    ],
)  # fmt: skip
def test_ends(kind: str, ends: tuple[Any, ...]) -> None:
    assert Parameter(**{kind: KINDS[kind]}).ends() == ends


def test_steps_in_floating_point() -> None:
    tenths = parameter("quniform", 0.1, 0.9, 0.1)
    assert all(tenths.holds(k / 10) and tenths.holds(0.1 + (k - 1) * 0.1) for k in range(1, 10))
    assert not any(tenths.holds(value) for value in (0.0, 0.05, 0.35, 0.55, 0.95, 1.0))


@pytest.mark.parametrize("kind", ["uniform", "quniform", "loguniform", "randint", "qrandint", "lograndint"])
def test_only_numbers_are_held(kind: str) -> None:
    found = Parameter(**{kind: KINDS[kind]})
    assert not any(found.holds(value) for value in (True, False, None, "4", str(KINDS[kind][0])))


@pytest.mark.parametrize("kind", ["randint", "qrandint", "lograndint"])
def test_whole_numbers_hold_no_fraction(kind: str) -> None:
    found = Parameter(**{kind: KINDS[kind]})
    assert found.holds(4) and not found.holds(4.5)


def test_true_is_not_one() -> None:
    assert not parameter("choice", 0, 1).holds(True) and not parameter("choice", True, False).holds(1)
    assert parameter("choice", None).holds(None) and not parameter("choice", "None").holds(None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "give one of uniform, quniform, loguniform, randint, qrandint, lograndint, choice, not none"),
        ({"uniform": [0, 1], "choice": [1]}, "not uniform and choice"),
        ({"uniform": [1.0, 1.0]}, "uniform [1.0, 1.0]: low must be below high"),
        ({"randint": [4, 3]}, "randint [4, 3]: low must be below high"),
        ({"quniform": [0.1, 1.0, 0.0]}, "quniform [0.1, 1.0, 0.0]: low must be below high, a step"),
        ({"qrandint": [1, 9, -2]}, "qrandint [1, 9, -2]: low must be below high, a step"),
        ({"loguniform": [0.0, 1.0]}, "a logarithm's low above 0"),
        ({"lograndint": [0, 8]}, "a logarithm's low above 0"),
        ({"choice": []}, "at least 1 item"),
        ({"uniform": [0.1]}, "uniform"),
        ({"uniform": [0.1, math.inf]}, "finite"),
        ({"randint": [1.5, 4]}, "integer"),
    ],
)
def test_what_is_no_distribution(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Parameter.model_validate(content)
    assert said in str(caught.value)


# --- conditions

CHAINED = space(
    orthogonality__side={"choice": ["output", "input", "both"]},
    orthogonality__energy={"choice": [0.8, 0.9], "when": {"adapter.orthogonality.side": ["input", "both"]}},
    orthogonality__mode={"choice": ["penalty", "projection"], "when": {"adapter.orthogonality.side": ["output"]}},
    orthogonality__weight={"choice": [1.0, 5.0], "when": {"adapter.orthogonality.mode": ["penalty"]}},
    max_rank={
        "choice": [4, 8],
        "when": {"adapter.orthogonality.side": ["both"], "adapter.orthogonality.energy": [0.9]},
    },
)


def test_conditions_chained_and_joined() -> None:
    """Each full assignment gives the keys whose conditions its own searched keys meet, and no others."""
    sides, energies, modes, weights, ranks = (parameter.bounds for parameter in CHAINED.values())
    for side, energy, mode, weight, rank in itertools.product(sides, energies, modes, weights, ranks):
        expected: dict[str, Any] = {"adapter.orthogonality.side": side}
        if side != "output":
            expected["adapter.orthogonality.energy"] = energy
        if side == "output":
            expected["adapter.orthogonality.mode"] = mode
            if mode == "penalty":
                expected["adapter.orthogonality.weight"] = weight
        if side == "both" and energy == 0.9:
            expected["adapter.max_rank"] = rank
        every = dict(zip(CHAINED, (side, energy, mode, weight, rank), strict=True))
        assert suggested(CHAINED, optuna.trial.FixedTrial(every)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_is_drawn_from_the_distribution(kind: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    searched = {"key": Parameter(**{kind: KINDS[kind]})}
    points = [suggested(searched, study.ask()) for _ in range(60)]
    assert all(searched["key"].holds(point["key"]) for point in points)
    if kind in ("randint", "qrandint"):  # both ends come
        assert {min(p["key"] for p in points), max(p["key"] for p in points)} == {*searched["key"].ends()}


# --- what is refused


@pytest.mark.parametrize("key", [*key_paths(RunConfig)])
def test_what_can_be_searched(key: str) -> None:
    assert searchable(key) == (key in SEARCHABLE)


def test_every_fixed_key_exists_and_says_why() -> None:
    assert {*FIXED} <= {*key_paths(RunConfig)}
    for key in FIXED:
        said = faults({key: {"choice": [1]}})
        assert said == [
            f"search.space.{key}: cannot be searched: all trials share workers that hold it; set it under run"
        ]


@pytest.mark.parametrize("under", ["", ".output\\.dense"])
def test_a_mapping_says_what_to_search_instead(under: str) -> None:
    for key, instead in MAPPINGS.items():
        said = f"{key} is a mapping; search {instead}, and set {key} under run"
        assert faults({key + under: {"choice": [4]}}) == [f"search.space.{key}{under}: cannot be searched: {said}"]
        assert searchable(instead)


def test_a_searchable_key_has_one_value() -> None:
    """So that `defaults` is a point, whatever is searched."""
    for run in (RUN, LORA):
        keys = [*own_keys(run), *(key for key in SEARCHABLE if key.startswith("train."))]
        assert {type(value_at(run, key)) for key in keys} <= {bool, int, float, str, type(None)}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("adapter.treshold", "adapter.threshold"),
        ("threshold", "adapter.threshold"),
        ("orthogonality.weight", "adapter.orthogonality.weight"),
        ("adapter.orthogonality.energ", "adapter.orthogonality.energy"),
        ("optimizer.learning_rate", "train.learning_rate"),
        ("max_rank", "adapter.max_rank"),
        ("tasks.0.learning_rate", "tasks.0.training.learning_rate"),
        ("tasks.0.training.learning_rates", "tasks.0.training.learning_rate"),
        ("tasks.3.training.minsteps", "tasks.3.training.min_steps"),
    ],
)
def test_a_key_that_is_near(key: str, meant: str) -> None:
    assert faults({key: {"uniform": [0.1, 0.9]}}) == [
        f"search.space.{key}: cannot be searched; did you mean {meant!r}?"
    ]


@pytest.mark.parametrize("key", ["model.dtype", "deepspeed.zero_stage", "xyzzy", "tasks", "name"])
def test_a_key_that_is_not(key: str) -> None:
    (said,) = faults({key: {"choice": [1]}})
    assert said.startswith(f"search.space.{key}: cannot be searched")


def test_a_key_of_another_method() -> None:
    """What both have is searched with either."""
    asked = {key: {"choice": [1]} for key in ("adapter.rank", "adapter.max_rank", "train.epochs")}
    (said,) = faults(asked)
    assert said.startswith("search.space.adapter.rank: adapter.method oa has no such key; use adapter.max_rank, ")
    (said,) = faults(asked, run=LORA)
    own = "adapter.rank, adapter.alpha, adapter.dropout, adapter.mode"
    assert said == f"search.space.adapter.max_rank: adapter.method lora has no such key; use {own}"


@pytest.mark.parametrize(
    ("key", "content", "wrong"),
    [
        ("adapter.orthogonality.energy", {"uniform": [0.5, 1.0]}, ["1.0"]),
        ("adapter.orthogonality.energy", {"uniform": [0.0, 1.0]}, ["0.0", "1.0"]),
        ("adapter.max_rank", {"randint": [0, 17]}, ["0"]),
        ("adapter.max_rank", {"uniform": [1.5, 8.0]}, ["1.5"]),
        ("adapter.min_rank", {"choice": [0, 17]}, ["17"]),  # above the run's max_rank, 16
        ("train.seed", {"qrandint": [0, 2**32, 1]}, [str(2**32)]),
        ("adapter.orthogonality.side", {"choice": ["output", "inside"]}, ['"inside"']),
        ("adapter.threshold", {"choice": [0.5, -0.5, None]}, ["-0.5", "null"]),
    ],
)
def test_values_that_the_run_refuses(key: str, content: dict[str, Any], wrong: list[str]) -> None:
    lines = faults({key: content})
    assert len(lines) == len(wrong)
    for value in wrong:
        line_of(lines, f"search.space.{key}: ", f"{value}")


def test_true_is_no_number_here_either() -> None:
    """As in a run's configuration, see `config_errors._misplaced_truths`."""
    (said,) = faults({"adapter.threshold": {"choice": [0.5, True]}})
    assert "adapter.threshold: true: should be a number" in said


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("adapter.orthogonality.energy", {"uniform": [0.01, 0.99]}),
        ("adapter.max_rank", {"randint": [1, 17]}),
        ("train.seed", {"randint": [0, 2**32]}),  # its end is left out
        ("adapter.max_parameters", {"choice": [None, 1000]}),
        ("adapter.orthogonality.weight", {"loguniform": [0.1, 100]}),
    ],
)
def test_values_that_the_run_takes(key: str, content: dict[str, Any]) -> None:
    assert faults({key: content}) == []


def test_conditions_name_keys_above_and_values_they_can_have() -> None:
    side = {"choice": ["output", "both"]}
    energy = {"uniform": [0.5, 0.9]}
    mode = "adapter.orthogonality.mode"
    assert faults({"adapter.orthogonality.side": side, "adapter.threshold": energy}) == []
    below = {"adapter.orthogonality.energy": {**energy, "when": {"adapter.orthogonality.side": ["both"]}}}
    assert faults({"adapter.orthogonality.side": side, **below}) == []
    line_of(faults({**below, "adapter.orthogonality.side": side}), "adapter.orthogonality.energy", "above it")
    itself = {"adapter.threshold": {**energy, "when": {"adapter.threshold": [0.5]}}}
    line_of(faults(itself), "search.space.adapter.threshold: when: 'adapter.threshold' is not searched above it")
    line_of(faults({"adapter.threshold": {**energy, "when": {mode: ["penalty"]}}}), f"when: {mode!r} is not searched")
    never = {"adapter.threshold": {**energy, "when": {"adapter.orthogonality.side": ["both", "input"]}}}
    line_of(faults({"adapter.orthogonality.side": side, **never}), "['both', 'input']", "choice [output, both]")


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_needs_an_end(kind: str) -> None:
    key = {"uniform": "adapter.threshold", "quniform": "adapter.threshold", "loguniform": "train.learning_rate"}
    bounds = [16] if kind == "choice" else KINDS[kind]
    searched = {key.get(kind, "adapter.max_rank"): {kind: bounds}}
    assert faults(searched) == []
    endless = faults(searched, "grid")
    assert bool(endless) == (kind in ("uniform", "loguniform"))
    if endless:
        line_of(endless, f"{kind} [", "has no end; for algorithm grid use quniform or choice")


def test_all_faults_at_once() -> None:
    lines = faults(
        {
            "adapter.treshold": {"uniform": [0.1, 0.9]},
            "adapter.max_rank": {"choice": [0, 4]},
            "train.compile": {"choice": [True]},
            "train.learning_rate": {"loguniform": [1e-4, 1e-2], "when": {"adapter.min_rank": [1]}},
        },
        "grid",
    )
    assert [line.split(": ")[0] for line in lines] == [
        "search.space.adapter.treshold",
        "search.space.adapter.max_rank",
        "search.space.train.compile",
        "search.space.train.learning_rate",
        "search.space.train.learning_rate",
    ]


OWN = "tasks.1.training.learning_rate"


def test_a_task_of_its_own() -> None:
    """The value of one task wins over that of all, whichever is searched; a task without one starts from the run's."""
    space = {OWN: {"loguniform": [1e-4, 0.5]}, "train.learning_rate": {"loguniform": [1e-4, 0.5]}}
    own = [*run_content()["tasks"]]
    own[0] = {**own[0], "training": {"learning_rate": 0.125}}
    sweep = sweep_of(space, run={"tasks": own}, search={"first": ["defaults"]})
    assert sweep.first_points() == [{OWN: 1e-3, "train.learning_rate": 1e-3}]
    trial = sweep.trial(1, {OWN: 0.25, "train.learning_rate": 0.5})
    assert [trial.training_of(index).learning_rate for index in range(4)] == [0.125, 0.25, 0.5, 0.5]
    assert shown_values({OWN: 0.25, "train.learning_rate": 0.5}) == "tasks.1 learning_rate 0.25, learning_rate 0.5"
    assert "training" not in sweep.run.model_dump()["tasks"][1]  # the run itself is as it was


def test_a_task_that_is_not_there_or_not_learned() -> None:
    searched = {"choice": [1]}
    assert faults({"tasks.4.training.epochs": searched}) == [
        "search.space.tasks.4.training.epochs: run.tasks has no item 4; its items are 0 to 3"
    ]
    with pytest.raises(ConfigError, match=r"tasks\.2\.training\.epochs: a trial learns 2 tasks \(`tasks`\); raise it"):
        sweep_of({"tasks.1.training.epochs": searched, "tasks.2.training.epochs": searched}, tasks=2)
    own = [{**task, "training": {"min_steps": 9}} for task in run_content()["tasks"]]
    run = RunConfig.model_validate(run_content(tasks=own))
    (said,) = faults({"tasks.0.training.max_steps": {"choice": [8, 9]}}, run=run)
    assert "tasks.0.training: min_steps 9 is above max_steps 8; lower min_steps" in said


def test_a_point_on_one_line() -> None:
    point = {"adapter.threshold": 1 / 3, "adapter.orthogonality.side": "both", "adapter.max_rank": 16}
    assert shown_values(point) == "threshold 0.3333, side both, max_rank 16"
