"""What may change between two starts of a run, key by key."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.config.errors import key_paths
from orchestrator.config.run import EvaluateConfig, RunConfig
from orchestrator.run.changes import Objection, differences, learned_as, objections
from orchestrator.run.changes import forbidden_changes as objected
from trainers.data.generative.config import SuperniTask

Begin = Callable[..., Any]

HARMLESS = {
    "cluster", "cluster.address", "cluster.cpus_per_worker", "cluster.gpus_per_worker", "cluster.grace_s",
    "cluster.lease_s", "cluster.max_failures", "cluster.num_workers", "cluster.use_gpu", "data_dir", "deepspeed",
    "deepspeed.zero_stage", "evaluate", "evaluate.every", "evaluate.keep_answers", "evaluate.keep_rows",
    "evaluate.rows", "evaluate.tasks",
    "guards", "guards.max_active_parameters", "guards.max_forgetting", "guards.max_nll_increase",
    "guards.min_average_accuracy", "store", "tracking", "tracking.jsonl", "tracking.mlflow", "tracking.tensorboard",
    "train.checkpoint_steps", "train.compile", "train.eval_batch_size", "train.gradient_accumulation_steps",
    "train.gradient_checkpointing", "train.logging_steps", "train.on_out_of_memory",
}  # fmt: skip


def forbidden_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [each.line for each in objected(old, new, len(old["tasks"]))]


@pytest.fixture
def begun(fake_run: Begin) -> dict[str, Any]:
    return {**fake_run("a", "b").config.model_dump(mode="json"), "evaluate": EvaluateConfig().model_dump()}


OF_LORA = {f"adapter.{key}" for key in ("rank", "alpha", "dropout", "mode")}


@pytest.mark.parametrize(
    "path",
    [p for p in key_paths(RunConfig) if p not in OF_LORA | {"tasks"} and not p.startswith("cluster.num_workers.")],
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
    new = {"a": 1, "b": {"c": [1, 3], "d": None, "e": False}, "new": None}
    assert differences(old, new) == [("b.c", [1, 2], [1, 3]), ("b.e", None, False), ("gone", 1, None)]
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
