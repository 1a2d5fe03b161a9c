"""What may change between two starts of a run, key by key."""

import copy
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.schema import WHOLE
from orchestrator.config.errors import key_paths
from orchestrator.config.file import override
from orchestrator.config.run import RunConfig, load_config, parse_config
from orchestrator.run.changes import (
    Objection,
    as_yaml,
    differences,
    going_on,
    has_default,
    learned_as,
    objections,
    put_back,
    way_on,
)
from orchestrator.run.changes import forbidden_changes as objected
from orchestrator.sweeps.config import merged
from orchestrator.track.state import RunState
from tests.golden.golden import GOLDEN, copy_to
from trainers.config import TrainConfig
from trainers.data.generative.config import SuperniTask
from trainers.method_config import AdapterConfig

Begin = Callable[..., Any]

HARMLESS = {
    "cluster", "cluster.address", "cluster.cpus_per_worker", "cluster.gpus_per_worker", "cluster.grace_s",
    "cluster.lease_s", "cluster.max_failures", "cluster.num_workers", "cluster.use_gpu", "data_dir", "deepspeed",
    "deepspeed.zero_stage", "evaluate", "evaluate.every", "evaluate.keep_answers", "evaluate.keep_rows",
    "cost", "evaluate.labels", "evaluate.macro_f1", "evaluate.rows", "evaluate.tasks",
    "guards", "guards.confidence", "guards.max_active_parameters", "guards.max_cost", "guards.max_forgetting",
    "guards.max_nll_increase", "guards.max_task_forgetting", "guards.max_task_parameters",
    "guards.min_average_accuracy", "guards.min_capacity_left", "guards.min_new_accuracy", "store",
    "tracking", "tracking.jsonl", "tracking.mlflow", "tracking.prometheus", "tracking.tensorboard", "tracking.wandb",
    "train.checkpoint_steps", "train.compile", "train.eval_batch_size", "train.gradient_accumulation_steps",
    "train.gradient_checkpointing", "train.logging_steps", "train.on_out_of_memory",
}  # fmt: skip


def forbidden_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [each.line for each in objected(old, new, len(old["tasks"]))]


@pytest.fixture
def begun(fake_run: Begin) -> dict[str, Any]:
    return fake_run("a", "b").config.model_dump(mode="json", context=WHOLE)


OF_LORA = {f"adapter.{key}" for key in ("rank", "alpha", "dropout", "mode")}


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in key_paths(RunConfig)
        if p not in OF_LORA | {"tasks"} and not p.startswith(("cluster.num_workers.", "cost.", "train.replay."))
    ],
)
def test_each_key(begun: dict[str, Any], path: str) -> None:
    now = copy.deepcopy(begun)
    *sections, key = path.split(".")
    target = now
    for section in sections:
        target = target[section]
    before, target[key] = target.get(key), "something else"
    if isinstance(before, dict):  # a whole section: one of its keys at least
        target[key] = {**before, "new": 1}
        path += ".new"
    changes = forbidden_changes(begun, now)
    if path.removesuffix(".new") in HARMLESS:
        assert changes == []
    else:
        was, now_is = (None, 1) if isinstance(before, dict) else (before, "something else")
        assert changes == [f"{path}: was {was!r}, is now {now_is!r}"]


def test_harmless_keys_are_whole_names(begun: dict[str, Any]) -> None:
    now = {**begun, "stores": 1, "data_directory": 2, "clusters": {"a": 3}}
    assert [line.partition(":")[0] for line in forbidden_changes(begun, now)] == [
        "clusters", "data_directory", "stores",
    ]  # fmt: skip


def test_tasks_may_be_appended_and_nothing_else(begun: dict[str, Any]) -> None:
    a, b = begun["tasks"]
    c = {**a, "name": "c"}

    def changes(*tasks: dict[str, Any]) -> list[str]:
        return forbidden_changes(begun, {**begun, "tasks": list(tasks)})

    assert changes(a, b) == changes(a, b, c) == []
    assert changes(a) == ["tasks: had 2, now 1; tasks may only be appended"]
    assert changes(b, a) == ["tasks.0.name: was 'a', is now 'b'", "tasks.1.name: was 'b', is now 'a'"]
    assert changes({**a, "max_train_rows": 5}, b) == ["tasks.0.max_train_rows: was None, is now 5"]
    assert changes(a, {**b, "task": "area"}, c) == ["tasks.1.task: was 'library', is now 'area'"]
    assert changes({**a, "resources": {"num_workers": 4}}, b) == []
    assert changes(a, {**b, "training": {"epochs": 3}}) == ["tasks.1.training: was None, is now {'epochs': 3}"]
    assert changes({**a, "max_length": 9}, b) == ["tasks.0.max_length: was None, is now 9"]
    assert changes(c) == ["tasks: had 2, now 1; tasks may only be appended", "tasks.0.name: was 'a', is now 'c'"]


def test_one_configuration_read_on_two_machines(begun: dict[str, Any]) -> None:
    elsewhere = {**begun, "store": "/home/other/.orthoplex/store", "data_dir": "/mnt/data"}
    assert forbidden_changes(begun, elsewhere) == []
    assert forbidden_changes(json.loads(json.dumps(begun)), begun) == []


def test_differences() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 1}
    new = {"a": 1, "b": {"c": [1, 3], "d": None, "e": False}, "new": 2}
    assert differences(old, new) == [
        ("b.c", [1, 2], [1, 3], True), ("b.e", None, False, False), ("gone", 1, None, True), ("new", None, 2, False),
    ]  # fmt: skip
    assert differences(old, old) == []


def test_until_a_task_is_committed_everything_may_change(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a", "b")
    other = run.config.model_dump(mode="json") | {"model": {"name": "other"}}
    tasks = run.state.tasks
    assert objections(run.state, other, tasks) == []
    run.commit([0.5, 0.5], zero_shot=[0.5, 0.5])
    assert objections(run.state, other, tasks)[0].line.startswith("model")
    changed = [tasks[0].model_copy(update={"fingerprint": "0" * 64}), tasks[1]]
    (found,) = objections(run.state, run.config.model_dump(mode="json"), changed)
    assert found == Objection("task 'a': its rows differ from those the run was begun with", 0, "the data")


def test_what_tells_checkpoints_of_a_task_apart_beside_its_rows() -> None:
    """Nothing for tasks as they were before there was more, so that their checkpoints are still resumed from."""
    plain = {"name": "a", "source": "superni", "path": "x"}
    found = [
        learned_as(SuperniTask.model_validate({**plain, **own}))
        for own in (
            {}, {"metrics": ["nll"], "resources": {"num_workers": 1}, "training": {}}, {"max_length": 64},
            {"training": {"epochs": 2}, "train_on": "all"},
        )
    ]  # fmt: skip
    assert found == [
        {}, {}, {"task": {"max_length": 64}}, {"task": {"training": {"epochs": 2}, "train_on": "all"}},
    ]  # fmt: skip


def stored_run(folder: Path, changed: dict[str, Any] | None = None) -> RunState:
    """The state of a run that was stored before there were the keys that came since; `changed` is laid over its
    configuration."""
    state = copy_to(folder).run_state("stream")
    return replace(state, config=merged(state.config, changed or {}))


def as_written(*overrides: str) -> RunConfig:
    """The configuration of that run, from its file."""
    return load_config(GOLDEN / "grown.yaml", overrides)


def refused(state: RunState, *overrides: str) -> list[str]:
    """What is said if the run is started again from its file."""
    config = going_on(as_written(*overrides), state.config)
    return [each.line for each in objections(state, config.model_dump(mode="json"), [])]


def test_a_run_from_before_the_functional_penalty_goes_on_without_it(tmp_path: Path) -> None:
    """New runs have it; the file says nothing of it."""
    state = stored_run(tmp_path)
    assert as_written().adapter.functional.weight == 10 and state.completed().adapter.functional.weight == 0
    assert refused(state) == []
    assert refused(state, "adapter.functional.weight=10.0") == [
        "adapter.functional.weight: was 0.0, is now 10.0, which is the default"
    ]


def test_a_stored_run_keeps_the_defaults_that_its_keys_had_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A key that came later has another default for new runs than its value in a run that was stored without it."""
    monkeypatch.setattr(AdapterConfig, "before", {"rounding": "stochastic"})
    state, given = stored_run(tmp_path), as_written()
    assert "rounding" not in state.config["adapter"] and given.adapter.rounding == "nearest"
    assert state.completed().adapter.rounding == "stochastic"
    went_on = going_on(given, state.config)
    assert went_on.adapter.rounding == "stochastic" and objections(state, went_on.model_dump(mode="json"), []) == []
    assert went_on.model_dump(mode="json")["adapter"] == state.config["adapter"]
    assert given.model_dump(mode="json")["adapter"]["rounding"] == "nearest"  # a new run's log says it
    explicit = as_written("adapter.rounding=nearest")
    (found,) = objections(state, going_on(explicit, state.config).model_dump(mode="json"), [])
    assert found.line == "adapter.rounding: was 'stochastic', is now 'nearest', which is the default"
    assert found.default == ("adapter.rounding", "stochastic")
    assert objections(state, as_written('adapter.rounding="stochastic"').model_dump(mode="json"), []) == []


def test_old_defaults_are_put_back_by_one_line_or_by_lines_of_the_file(tmp_path: Path) -> None:
    """The file leaves some keys out. The run has other values of them, as if they had been the defaults then."""
    ceilings = {"layer.0.output.dense": 4, "q": 2}
    old = {
        "adapter": {"min_rank": 1, "rank_pattern": ceilings, "orthogonality": {"mode": "projection"}},
        "train": {"max_grad_norm": 2.0},
    }
    state = stored_run(tmp_path, old)
    lines = refused(state)
    assert lines == [
        "adapter.min_rank: was 1, is now 0, which is the default",
        "adapter.orthogonality.mode: was 'projection', is now 'penalty', which is the default",
        f"adapter.rank_pattern: was {ceilings!r}, is now {{}}, which is the default",
        "train.max_grad_norm: was 2.0, is now 1.0, which is the default",
    ]
    config = going_on(as_written(), state.config)
    advice, say, options, or_, *yaml_lines = way_on(
        state, objections(state, config.model_dump(mode="json"), [])
    ).splitlines()
    assert advice.startswith("Put the configuration back, or") and "these options" in say and "in the file:" in or_
    words = shlex.split(options)
    assert words[::2] == ["--set"] * 4 and refused(state, *words[1::2]) == []
    written = (GOLDEN / "grown.yaml").read_text()
    changed = merged(yaml.safe_load(written), yaml.safe_load("\n".join(yaml_lines)))
    assert changed["adapter"]["rank_pattern"] == ceilings
    config = going_on(parse_config(changed, "t"), state.config)
    assert objections(state, config.model_dump(mode="json"), []) == []
    assert "adapter.threshold: was 0.4, is now 0.1" in refused(state, "adapter.threshold=0.1")  # no default


def test_lines_of_a_list_say_of_which_item_they_are() -> None:
    found = as_yaml(
        [("train.epochs", 2), ("tasks.1.training.epochs", None), ("tasks.1.max_length", 9), ("data.x", "y: z")]
    )
    assert found == [
        "train:", "  epochs: 2", "data:", "  x: 'y: z'",
        "# in tasks.1:", "training:", "  epochs: null", "max_length: 9",
    ]  # fmt: skip


@pytest.mark.parametrize(("path", "is_default"), [
    ("train.epochs", True), ("train.seed", False), ("adapter.method", True), ("adapter.target_modules", False),
    ("adapter.orthogonality.weight", True), ("adapter.rank_pattern.q", False), ("tasks.0.max_length", True),
    ("tasks.0.name", False), ("nothing.there", False), ("train", False), ("guards", True),
])  # fmt: skip
def test_which_values_are_defaults(fake_run: Begin, path: str, is_default: bool) -> None:
    config = fake_run("a", "b").config
    config = config.model_copy(update={"train": TrainConfig(seed=3)})
    assert has_default(config, path.split(".")) == is_default


def test_the_set_of_a_refusal_gives_back_what_is_no_ascii() -> None:
    task = {"name": "a", "source": "docstrings", "task": "library"}
    given: dict[str, Any] = {"name": "s", "adapter": {"target_modules": ["x"]}, "tasks": [task]}
    old, now = (parse_config({**given, **more}, "t") for more in ({"model": {"prompt": "\U0001f600 é {text}"}}, {}))
    before, after = (each.model_dump(mode="json", context=WHOLE) for each in (old, now))
    (found,) = objected(before, after, 1, now)
    assert found.default
    _, assignment = shlex.split(put_back([found.default]).splitlines()[1])
    override(given, assignment)
    assert parse_config(given, "t") == old
