"""A sweep as users write it: the run's file with changes, every error at once, first points, and what a trial is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from cluster.errors import ConfigError
from orchestrator.config.run import RunConfig, load_config, parse_config
from orchestrator.sweeps.config import SweepConfig, load_sweep, merged, parse_sweep
from orchestrator.sweeps.space import suggested
from tests.support.sweeps import ADAPTER, TASKS, content_of, line_of, run_content, sweep_of

ROOT = Path(__file__).parents[3]
SIDE, ENERGY, MODE, WEIGHT = (f"adapter.orthogonality.{key}" for key in ("side", "energy", "mode", "weight"))
Load = Callable[..., SweepConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a sweep in the folder `sweeps`, beside `base.yaml`, which is the run that content_of has."""

    def load(content: Mapping[str, Any], *overrides: str) -> SweepConfig:
        (tmp_path / "sweeps").mkdir(exist_ok=True)
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(run_content(team="blue", train={"epochs": 5, "seed": 7})))
        (tmp_path / "sweeps/s.yaml").write_text(yaml.safe_dump(content))
        return load_sweep(tmp_path / "sweeps/s.yaml", overrides)

    return load


def on_base(**sections: Any) -> dict[str, Any]:
    """A sweep whose run is in base.yaml; `run` changes it."""
    content = content_of(**{key: value for key, value in sections.items() if key != "run"})
    return {key: value for key, value in content.items() if key != "run"} | {"base": "../base.yaml"} | sections


def lines(content: Mapping[str, Any]) -> list[str]:
    """The errors listed in the message, whose heading counts them."""
    with pytest.raises(ConfigError) as caught:
        parse_sweep(content, "s.yaml")
    heading, *listed = str(caught.value).split("\n")
    assert heading == f"s.yaml: {len(listed)} error{'s' if len(listed) > 1 else ''} in the configuration"
    assert all(line.startswith("  ") for line in listed)
    return [line[2:] for line in listed]


# --- base, run and --set


def test_the_run_of_another_file_with_changes(load: Load) -> None:
    changes = {"team": "red", "train": {"epochs": 1, "batch_size": 8}, "adapter": {"orthogonality": {"weight": 2.0}}}
    expected = run_content(
        team="red", train={"epochs": 1, "seed": 7, "batch_size": 8},
        adapter={**ADAPTER, "orthogonality": {"weight": 2.0}},
    )  # fmt: skip
    assert load(on_base(run=changes)).run == parse_config(expected, "")


def test_the_run_of_another_file_as_it_is(load: Load, tmp_path: Path) -> None:
    found = load(on_base())
    assert found.run == load_config(tmp_path / "base.yaml") and found.run.train.epochs == 5
    assert load(on_base(run=None)) == found


def test_a_list_in_the_changes_replaces(load: Load) -> None:
    tasks = run_content()["tasks"][1:3]
    found = load(on_base(run={"tasks": tasks, "adapter": {"target_modules": ["query"]}}))
    assert [task.name for task in found.run.tasks] == [*TASKS[1:3]]
    assert found.run.adapter.target_modules == ["query"]


def test_set_changes_sweep_and_run(load: Load) -> None:
    words = ("budget.trials=3", "run.train.epochs=2", "run.tasks.0.name=first", "search.algorithm=random",
             "choice={rule: best_accuracy, max_parameters: 9}")  # fmt: skip
    found = load(on_base(run={"train": {"epochs": 4}}), *words)
    assert (found.budget.trials, found.run.train.epochs, found.run.train.seed) == (3, 2, 7)
    assert [task.name for task in found.run.tasks] == ["first", *TASKS[1:]]
    assert (found.search.algorithm, found.choice.max_parameters) == ("random", 9)


def test_set_names_another_base_from_here(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(run_content(team="red", train={"epochs": 9})))
    found = load(on_base(run={"train": {"batch_size": 8}}), "run.train.seed=3", "base=other.yaml")
    assert (found.run.team, found.run.train.epochs, found.run.train.batch_size, found.run.train.seed) == (
        "red",
        9,
        8,
        3,
    )
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load(on_base(), "base=none.yaml")


def test_set_says_what_it_cannot(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"run\.train\.epochs: 0: should be greater than 0"):
        load(on_base(), "run.train.epochs=0")
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        load(on_base(), "budget.trials")


@pytest.mark.parametrize(
    ("sections", "said"),
    [({"base": 3}, "base: 3"), ({"base": "none.yaml"}, "none.yaml: no such file"), ({"run": 5}, "run: ")],
)
def test_what_is_no_base(load: Load, sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(on_base(**sections))
    assert said in str(caught.value)


def test_what_is_merged_stays_as_it_was() -> None:
    content = {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}
    changes = {"a": {"c": {"d": 3, "f": 4}}, "e": {"g": 5}}
    assert merged(content, changes) == {"a": {"b": 1, "c": {"d": 3, "f": 4}}, "e": {"g": 5}}
    assert merged(content, {"a": None}) == {"a": None, "e": [1]}
    assert content == {"a": {"b": 1, "c": {"d": 2}}, "e": [1]} and changes["e"] == {"g": 5}


@pytest.mark.parametrize("path", sorted((ROOT / "configs/sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_sweeps_load(path: Path) -> None:
    found = load_sweep(path)
    assert SweepConfig.stored(found.model_dump(mode="json")) == found
    for number, point in enumerate(found.first_points(), 1):
        assert {*point} <= {*found.search.space}
        assert len(found.trial(number, point).tasks) == found.length


# --- errors


def test_every_error_at_once() -> None:
    found = lines(
        content_of(
            budget={"trials": 0},
            search={"algorithm": "tpee"},
            run={"adapter": {"treshold": 1, "target_modules": ["x"]}, "train": {"epochs": "many"}},
            stoping={},
            choice={"within": 2},
            stopping={"asha": {"grace_tasks": 0, "reduction_factor": 1}},
        )
    )
    for parts in [
        ("budget.trials: 0: ", "greater than 0"),
        ("search.algorithm: ", '"tpee"', "did you mean 'tpe'?"),
        ("run.adapter.treshold: unknown key", "did you mean 'threshold'?"),
        ("run.train.epochs: ", '"many"', "whole number"),
        ("stoping: unknown key", "did you mean 'stopping'?"),
        ("choice.within: 2: ", "less than or equal to 1"),
        ("stopping.asha.grace_tasks: 0: ", "greater than 0"),
        ("stopping.asha.reduction_factor: 1: ", "greater than 1"),
    ]:
        line_of(found, *parts)
    assert len(found) == 8


def test_what_does_not_go_together_at_once() -> None:
    found = lines(content_of({"adapter.treshold": {"uniform": [0, 1]}, "adapter.max_rank": {"choice": [0]}}, tasks=9))
    line_of(found, "search.space.adapter.treshold", "did you mean 'adapter.threshold'?")
    line_of(found, "search.space.adapter.max_rank", "0: should be greater than 0")
    line_of(found, "tasks: 9", "run.tasks has 4")
    assert len(found) == 3


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        ({"budget": {}}, ("budget", "trials, hours or gpu_hours")),
        ({"budget": {"trials": True}}, ("budget.trials: true: should be a whole number",)),
        ({"budget": {"hours": -1}}, ("budget.hours: -1: ",)),
        ({"choice": {"max_parameters": 5}}, ("choice: max_parameters 5", "best_accuracy")),
        ({"name": "S"}, ("name: ", '"S"')),
        ({"search": {"space": {}}}, ("search.space: name at least one key",)),
        ({"search": {"space": {"adapter.threshold": [0, 1]}}}, ("search.space.adapter.threshold: [0, 1]: ",)),
        (
            {"search": {"space": {"adapter.threshold": {"unifrom": [0, 1]}}}},
            ("search.space.adapter.threshold.unifrom: unknown key", "'uniform'"),
        ),
        (
            {"search": {"space": {"adapter.threshold": {"uniform": ["a", 1]}}}},
            ('search.space.adapter.threshold.uniform.0: "a": should be a number',),
        ),
        ({"search": {"space": {"adapter.threshold": {"choice": [[1]]}}}}, ("search.space.adapter.threshold.choice",)),
        ({"search": {"first": "defaults"}}, ('search.first: "defaults": should be a list',)),
        ({"search": {"first": ["defalts"]}}, ("search.first.0: ", '"defalts"')),
        ({"search": {"first": [{"adapter.threshold": [1]}]}}, ("search.first.0",)),
    ],
)
def test_one_error(sections: dict[str, Any], parts: tuple[str, ...]) -> None:
    (line,) = lines(content_of(**sections))
    assert all(part in line for part in parts), line


# --- first points


@pytest.mark.parametrize("algorithm", ["tpe", "grid"])
def test_defaults_and_paper(algorithm: str) -> None:
    """The run's own values; the paper's: arXiv:2505.22358 has a penalty on what adapters write, and no budget pull."""
    space = {
        "adapter.threshold": {"choice": [0.5, 0.25]},
        "adapter.budget_weight": {"choice": [0.0, 0.03]},
        SIDE: {"choice": ["output", "both"]},
        MODE: {"choice": ["penalty", "projection"]},
    }
    run = {
        "adapter": {
            "target_modules": ["x"], "threshold": 0.25, "budget_weight": 0.03,
            "orthogonality": {"side": "both", "mode": "projection"},
        }
    }  # fmt: skip
    found = sweep_of(space, run=run, search={"first": ["paper", "defaults"], "algorithm": algorithm})
    own = {"adapter.threshold": 0.25, "adapter.budget_weight": 0.03, SIDE: "both", MODE: "projection"}
    assert found.first_points() == [
        {**own, "adapter.budget_weight": 0.0, SIDE: "output", MODE: "penalty"},
        own,
    ]


def test_the_paper_sets_searched_keys_alone() -> None:
    found = sweep_of({"adapter.threshold": {"uniform": [0.1, 0.9]}}, search={"first": ["paper"]})
    assert found.first_points() == [{"adapter.threshold": 0.5}]


def test_each_point_once() -> None:
    explicit = [
        {"adapter.threshold": 0.5, "adapter.max_rank": 16},
        {"adapter.threshold": 0.2},
        {"adapter.threshold": 0.2},
    ]
    found = sweep_of(search={"first": ["defaults", *explicit, "defaults"]})
    assert found.first_points() == [{"adapter.threshold": 0.5, "adapter.max_rank": 16}, {"adapter.threshold": 0.2}]


def test_a_default_that_is_not_stored_is_a_first_point() -> None:
    found = sweep_of({"adapter.rounding": {"choice": ["nearest", "stochastic"]}}, search={"first": ["defaults"]})
    assert found.first_points() == [{"adapter.rounding": "nearest"}]


def test_defaults_are_the_first_unless_said_otherwise() -> None:
    content = content_of()
    del content["search"]["first"]
    assert parse_sweep(content, "").first_points() == [{"adapter.threshold": 0.5, "adapter.max_rank": 16}]
    assert sweep_of(search={"first": []}).first_points() == []


CHAIN: dict[str, Any] = {
    SIDE: {"choice": ["output", "both"]},
    MODE: {"choice": ["penalty", "projection"], "when": {SIDE: ["output"]}},
    WEIGHT: {"choice": [1.0, 5.0], "when": {MODE: ["penalty"]}},
    ENERGY: {"choice": [0.8, 0.95], "when": {SIDE: ["both"]}},
}


@pytest.mark.parametrize("own", ["output", "both"])
@pytest.mark.parametrize("mode", ["penalty", "projection"])
@pytest.mark.parametrize("point", ["defaults", "paper"])
def test_a_named_point_has_the_keys_that_the_sampler_would_draw(own: str, mode: str, point: str) -> None:
    """What is under an unmet condition is not searched, nor what is under a condition on that."""
    adapter = {"target_modules": ["x"], "orthogonality": {"side": own, "mode": mode, "weight": 5.0}}
    found = sweep_of(CHAIN, run={"adapter": adapter}, search={"first": [point]})
    (values,) = found.first_points()
    full = {SIDE: own, MODE: mode, WEIGHT: 5.0, ENERGY: 0.95}
    full |= {SIDE: "output", MODE: "penalty"} if point == "paper" else {}
    assert values == suggested(found.search.space, optuna.trial.FixedTrial(full))


@pytest.mark.parametrize(
    ("space", "first", "parts"),
    [
        (
            {"adapter.threshold": {"uniform": [0.6, 0.9]}}, "defaults",
            ("search.first: defaults", "adapter.threshold 0.5", "uniform [0.6, 0.9]"),
        ),
        (
            {"adapter.budget_weight": {"loguniform": [0.001, 0.1]}}, "paper",
            ("search.first: paper", "adapter.budget_weight 0.0", "loguniform [0.001, 0.1]"),
        ),
        (None, {"adapter.threshold": 0.95}, ("search.first", "adapter.threshold 0.95", "uniform [0.1, 0.9]")),
        (None, {"adapter.max_rank": 5}, ("search.first", "adapter.max_rank 5", "choice [4, 8, 16]")),
        (None, {"adapter.min_rank": 5}, ("search.first", "'adapter.min_rank' is not searched")),
        (
            {"adapter.max_rank": {"randint": [4, 17]}}, {"adapter.max_rank": 17},
            ("search.first", "adapter.max_rank 17", "randint [4, 17]"),
        ),
        (
            {"adapter.max_rank": {"randint": [4, 17]}}, {"adapter.max_rank": 8.5},
            ("search.first", "adapter.max_rank 8.5", "randint [4, 17]"),
        ),
        (CHAIN, {SIDE: "both", MODE: "penalty"}, ("search.first", MODE)),  # it would be left out without a word
    ],
)  # fmt: skip
def test_a_first_point_outside_the_space(space: Any, first: Any, parts: tuple[str, ...]) -> None:
    (line,) = lines(content_of(space, search={"first": [first]}))
    assert all(part in line for part in parts), line


def test_numbers_that_yaml_reads_as_texts_are_numbers() -> None:
    """1e-3 is a text in YAML 1.1; as a key's value it is taken for the number, see test_config."""
    space = yaml.safe_load("train.learning_rate: {choice: [1e-3, 1e-2]}")
    found = sweep_of(space, search={"first": ["defaults"]})  # the default is 0.001
    assert found.first_points() == [{"train.learning_rate": 0.001}]


# --- trials


def test_a_trial_is_the_run_with_its_values_and_first_tasks() -> None:
    found = sweep_of(tasks=3, run={"team": "blue", "guards": {"max_forgetting": 0.5, "min_average_accuracy": 0.1}})
    trial = found.trial(7, {"adapter.threshold": 0.3, "adapter.max_rank": 4})
    expected = run_content(
        name="s-00007", team="blue", guards={"max_forgetting": 0.5, "min_average_accuracy": 0.1},
        adapter={**ADAPTER, "threshold": 0.3, "max_rank": 4},
    )  # fmt: skip
    expected["tasks"] = expected["tasks"][:3]
    assert trial == parse_config(expected, "")
    assert found.length == 3 and sweep_of().length == 4


def test_nested_values_and_none() -> None:
    trial = sweep_of(CHAIN).trial(1, {SIDE: "both", ENERGY: 0.8, "adapter.max_parameters": None})
    assert (trial.adapter.orthogonality.side, trial.adapter.orthogonality.energy) == ("both", 0.8)
    assert trial.adapter.orthogonality.weight == 5.0 and trial.adapter.max_parameters is None


@pytest.mark.parametrize(
    ("asked", "own", "guard"), [(0.1, 0.5, 0.1), (None, 0.5, 0.5), (0.9, None, 0.9), (0.0, 0.5, 0.0)]
)
def test_the_guard_on_forgetting(asked: float | None, own: float | None, guard: float | None) -> None:
    found = sweep_of(stopping={"max_forgetting": asked}, run={"guards": {"max_forgetting": own}})
    assert found.trial(1, {}).guards.max_forgetting == guard
    assert found.with_name("best", {}).guards.max_forgetting == own  # what is recommended has the run's


def test_the_recommended_one_has_all_tasks() -> None:
    found = sweep_of(tasks=2)
    best = found.with_name("s-best", {"adapter.max_rank": 8})
    assert [task.name for task in best.tasks] == [*TASKS] and best.name == "s-best" and best.adapter.max_rank == 8
    assert RunConfig.model_validate(best.model_dump(mode="json")) == best


def test_values_that_do_not_go_together() -> None:
    found = sweep_of({"adapter.max_rank": {"choice": [4, 16]}, "adapter.min_rank": {"choice": [0, 8]}})
    with pytest.raises(ConfigError) as caught:
        found.trial(3, {"adapter.max_rank": 4, "adapter.min_rank": 8})
    assert "trial s-00003" in str(caught.value) and "min_rank 8 is above max_rank 4" in str(caught.value)


def test_names_of_trials_are_names_of_runs() -> None:
    longest = sweep_of(name="x" * 90)
    assert longest.trial(99_999, {}).name == "x" * 90 + "-99999"
    assert longest.with_name("x" * 90 + "-best", {}).name.endswith("-best")


def test_a_joint_training_is_no_stream_to_compare() -> None:
    said = lines(content_of(run=run_content(train={"joint": True})))
    assert said == ["run.train.joint: a sweep compares streams task by task, and all are trained at once; remove it"]
