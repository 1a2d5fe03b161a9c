"""Which policies go together, and what is refused by its key."""

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config.run import RunConfig
from tests.support.fake_workers import run_config

TASK = {"source": "docstrings", "task": "library"}
GENERATIVE = {"source": "docstrings", "task": "example"}
LANGUAGE = {"name": "docs-lm", "task_type": "CAUSAL_LM"}


def content(*tasks: dict[str, Any], **sections: Any) -> dict[str, Any]:
    named = [{"name": f"t{number}", **task} for number, task in enumerate(tasks or (TASK, TASK))]
    return {"name": "r", "adapter": {"target_modules": ["dense"]}, "tasks": named, **sections}


PER_TASK = {"method": "lora", "mode": "per_task", "target_modules": ["a"]}
ROWS = {"keep_rows": True}
FILLS = {"target_modules": ["a"], "orthogonality": {"side": "both"}}
REPLAY, JOINT, BOTH = {"replay": {"share": 0.02}}, {"joint": True}, {"labels": "both"}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (content(train={**REPLAY, **JOINT}), "train.joint: all rows .* remove train.replay"),
        (content(TASK, train=JOINT), "train.joint: one task has nothing to be joined with"),
        (content(train=JOINT, guards={"max_forgetting": 0.1}), "guards.max_forgetting: with train.joint"),
        (content(TASK, {**TASK, "training": {"epochs": 2}}, train=JOINT), r"tasks\.1\.training: .* as train says"),
        (content({**TASK, "resources": {"num_workers": 1}}, TASK, train=JOINT), r"tasks\.0\.resources: .* as cluster"),
        (content(TASK, GENERATIVE, model=LANGUAGE, train=JOINT), r"train\.joint: .*\(t1\) .*\(t0\) cannot share"),
        (content(GENERATIVE, TASK, model=LANGUAGE, train=REPLAY), r"train\.replay: .*\(t0\) .*\(t1\) cannot share"),
        (content(GENERATIVE, model=LANGUAGE, evaluate=BOTH), "evaluate.labels both: generative tasks"),
        (content(model={**LANGUAGE, "scoring": "generation"}, evaluate=BOTH), "labels both: with model.scoring"),
        *((content(train=train, adapter=PER_TASK), "adapter of its own") for train in (REPLAY, JOINT)),
        (content(adapter=PER_TASK, evaluate=BOTH), "labels both: adapter.method lora .* the task of a text is known"),
        (content(train=JOINT, guards={"max_task_forgetting": 0.1}), "guards.max_task_forgetting: with train.joint"),
        (content(guards={"max_forgetting": 0.1, "confidence": 0.9}), "confidence 0.9: .* evaluate.keep_rows: true"),
        (content(guards={"max_active_parameters": 1, "confidence": 0.9}, evaluate=ROWS), "no bound on accuracies"),
        (content(guards={"max_forgetting": 0.1, "confidence": 0.5}, evaluate=ROWS), "guards.confidence\n"),
        (content(guards={"max_cost": 10}), "guards.max_cost 10.0: nothing says .* set cost.gpu_hour"),
        (content(guards={"max_cost": 10}, cost={"base_flops": 1e20}), "nothing says .* set cost.gpu_hour"),
        (content(guards={"min_capacity_left": 0.1}), "min_capacity_left 0.1: with these adapter settings"),
        (content(guards={"min_capacity_left": 0.1}, adapter=PER_TASK), "min_capacity_left 0.1: "),
        (content(train={"replay": {"share": 0}}), "train.replay.share"),
        (content(train={"replay": {"share": 1.5}}), "train.replay.share"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(made: dict[str, Any], said: str) -> None:
    with pytest.raises(
        ValidationError,
        match=said.replace("train.replay.share", "train.replay.share\n"),
    ):
        RunConfig.model_validate(made)


def test_what_goes_together() -> None:
    for made in (
        content(train=REPLAY, evaluate=BOTH),
        content(train=JOINT, evaluate=BOTH, guards={"min_average_accuracy": 0.1}),
        content(GENERATIVE, GENERATIVE, model=LANGUAGE, train=REPLAY),
        content(GENERATIVE, TASK, model=LANGUAGE, evaluate=BOTH),
        content(adapter={"method": "lora", "mode": "sequential", "target_modules": ["a"]}, train=REPLAY),
        content(
            guards={"min_new_accuracy": 0.1, "confidence": 0.9, "max_cost": 1}, evaluate=ROWS, cost={"gpu_hour": 2}
        ),
        content(
            guards={"min_capacity_left": 0.1}, adapter={"target_modules": ["a"], "orthogonality": {"side": "both"}}
        ),
    ):
        config = RunConfig.model_validate(made)
        assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_stored_run_stays_readable_whatever_is_refused_since() -> None:
    made = content(adapter=PER_TASK)
    stored = RunConfig.model_validate(made).model_dump(mode="json") | {"evaluate": {"labels": "both"}}
    assert RunConfig.stored(stored).evaluate.labels == "both"


def test_stages_and_their_rows(tmp_path: Any) -> None:
    sizes = [100, 10, 40]
    plain, replay, joint = (
        run_config(tmp_path, "abc", train=train) for train in ({}, {"replay": {"share": 0.1}}, JOINT)
    )
    assert [[*config.stages] for config in (plain, replay, joint)] == [[0, 1, 2], [0, 1, 2], [2]]
    assert [plain.trained_rows(sizes, i) for i in range(3)] == sizes
    assert [replay.trained_rows(sizes, i) for i in range(3)] == [100, 20, 51]
    assert joint.trained_rows(sizes, 2) == 150
    assert [replay.replayed_rows(sizes, i) for i in range(3)] == [0, 10, 11]
    assert [plain.replayed_rows(sizes, 2), joint.replayed_rows(sizes, 2)] == [0, 0]


def test_what_is_stored_without_them_is_as_before(tmp_path: Any) -> None:
    stored = run_config(tmp_path, "ab", evaluate={"every": 2}).model_dump(mode="json")
    assert not {"replay", "joint"} & stored["train"].keys()
    assert stored["evaluate"] == {"tasks": "all", "every": 2, "rows": None, "keep_answers": 50}
