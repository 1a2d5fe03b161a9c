"""What a run hands its workers: data read once, described for the log, told about, and scored in full."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import ConfigError
from cluster.resources import ClusterConfig
from orchestrator.config.run import RunConfig, parse_config
from orchestrator.run import workers as run_workers
from orchestrator.run.plan import make_plan
from orchestrator.run.workers import OwnWorkers, all_rows, describe_data, describe_tasks, load_tasks
from orchestrator.track.events import Floors
from tests.support.fake_workers import without_ray
from tests.support.token_cases import CASES, TokenCase, made
from trainers.config import OwnTraining
from trainers.messages import Job
from trainers.models.loading import load_backbone
from trainers.models.tokens import tokenize_task
from trainers.objectives.known import OBJECTIVES


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Two tasks of 10 rows, one of which is empty, and 5 for tests."""
    rows = [f"{'cats' if n % 2 else 'dogs'} number {n},{'cat' if n % 2 else 'dog'}" for n in range(9)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows, ",cat"]) + "\n")
    (tmp_path / "test.csv").write_text("\n".join(["text,label", *(f"other {row}" for row in rows[:5])]) + "\n")
    task = {"source": "files", "train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    tasks = [{"name": name, **task} for name in ("a", "b")]
    content = {"name": "r", "store": str(tmp_path / "store"), "adapter": {"target_modules": ["dense"]}, "tasks": tasks}
    return parse_config(content, "test")


def test_what_is_left_out_of_data_is_said(config: RunConfig) -> None:
    said: list[str] = []
    first, second = load_tasks(config, said.append)
    assert (first.name, second.name) == ("a", "b") and first.fingerprint == second.fingerprint
    assert said == [f"warning: {warning}" for task in (first, second) for warning in task.warnings]
    # of each task a training row in the test file, and the label that the only validation row does not have
    assert len(said) == 4 and sum("without a validation row" in line for line in said) == 2


def test_data_as_the_log_keeps_them(config: RunConfig) -> None:
    found = OwnWorkers(config, print).describe()
    assert [each.name for each in found] == ["a", "b"]
    data = load_tasks(config, lambda _: None)[0]
    assert found[0].model_copy(update={"floors": None}) == describe_data(data)
    body = found[0].model_dump(mode="json")
    assert body["rows"] == {"train": 8, "validation": 1, "test": 5}
    assert body["labels"] == ["cat", "dog"] and body["fingerprint"] == data.fingerprint


def test_floors_of_tasks_are_kept(config: RunConfig, tmp_path: Path) -> None:
    rows = [{"prompt": f"say {n}", "completion": f" {n % 2}"} for n in range(12)]
    for part, lines in (("train", rows[:10]), ("test", rows[10:])):
        (tmp_path / f"{part}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    task = {"source": "files", "format": "prompt_completion", "train": f"{tmp_path}/train.jsonl"}
    task |= {"test": f"{tmp_path}/test.jsonl", "name": "g", "metrics": ["exact_match"]}
    content = config.model_dump(mode="json")
    content |= {"model": {"name": "docs-lm", "task_type": "CAUSAL_LM"}, "tasks": [*content["tasks"], task]}
    mixed = parse_config(content, "test")
    data = load_tasks(mixed, lambda _: None)
    stored = describe_tasks(mixed, data)
    assert [{*each.body()} - {*describe_data(rows).body()} for each, rows in zip(stored, data, strict=True)] == [
        {"floors"}
    ] * 3
    assert stored[2].floors and stored[2].floors.scores == {"constant": 0.5, "copy": 0.0, "nearest": 0.5}
    for described, rows in zip(stored[:2], data, strict=False):
        counts = Counter(rows.train["label"])
        label = min(counts, key=lambda each: (-counts[each], each))
        share = rows.test["label"].count(label) / len(rows.test)
        assert described.floors == Floors(rows=5, scores={"majority": share})


def test_a_plan_refuses_labels_that_cannot_be_compared(config: RunConfig, tmp_path: Path) -> None:
    """Words that begin with the space that ends a prompt, beside digits, which do not."""
    content = config.model_dump(mode="json")
    content["model"] = {"name": "docs-lm", "task_type": "CAUSAL_LM", "prompt": "{text}\nAnswer: "}
    content["adapter"] = {"target_modules": ["o_proj"]}
    for key in ("train", "test"):
        content["tasks"][1][key] = str(tmp_path / f"numbers-{key}.csv")
        rows = (tmp_path / f"{key}.csv").read_text().replace(",cat", ",1").replace(",dog", ",2")
        (tmp_path / f"numbers-{key}.csv").write_text(rows)
    make_plan(parse_config(content, "test"))
    with pytest.raises(ConfigError, match=r"task b: evaluate\.labels: both: the end of the prompt is joined"):
        make_plan(parse_config({**content, "evaluate": {"labels": "both"}}, "test"))


def test_rows_carry_texts_and_label_indices(config: RunConfig) -> None:
    rows = list(all_rows(config, load_tasks(config, lambda _: None)))
    assert [each.name for each in rows] == ["a", "b"] and rows[0].labels == ("cat", "dog")
    texts, labels = rows[0].splits["test"]
    assert dict(zip(texts, labels, strict=True)) == {
        f"other {'cats' if n % 2 else 'dogs'} number {n}": 0 if n % 2 else 1 for n in range(5)
    }


def test_a_plan_has_each_tasks_own_steps_and_length(config: RunConfig) -> None:
    """Nine rows, of which one is held out; the second task has what the run says."""
    own = {"training": OwnTraining(batch_size=4, epochs=2, min_steps=7), "max_length": 4}
    plan = make_plan(config.model_copy(update={"tasks": (config.tasks[0].model_copy(update=own), config.tasks[1])}))
    assert plan.steps == [7, 3]
    first, second = (task["tokens"] for task in plan.tasks)
    assert (first["max_length"], second["max_length"]) == (4, 128)
    assert first["cut"] == first["rows"] and second["cut"] == 0
    assert [len(task["example"]["ids"]) for task in plan.tasks] == [4, second["p50"]]


def test_a_run_scores_every_task_and_the_untrained_model_once(config: RunConfig) -> None:
    workers = OwnWorkers(config, print)
    assert workers.scored(0) == {"zero_shot": True, "validation": range(2), "test": range(2)}
    assert workers.scored(1) == {"zero_shot": False, "validation": range(2), "test": range(2)}


def test_a_cluster_that_is_too_small_is_spoken_of(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 1.0})
    made: list[Job] = []
    monkeypatch.setattr(run_workers, "WorkerGroup", lambda job, cluster, check: made.append(job))
    said: list[str] = []
    workers = OwnWorkers(config, said.append)
    workers.rows = ("rows",)
    job = Job("default/r", config.model, config.adapter, config.train, config.deepspeed, config.store, ())
    workers.group(job, ClusterConfig(num_workers=2), lambda: None)
    assert said[0] == "starting 2 workers" and said[1].startswith("waiting for the cluster to grow: ")
    assert made[0].tasks == ("rows",) and made[0].run == "default/r"
    said.clear()
    workers.group(job, ClusterConfig(num_workers=1), lambda: None)
    assert said == ["starting 1 worker"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_plan_refuses_exactly_what_run_would(case: TokenCase, tmp_path: Path) -> None:
    """With the same words, before any worker starts; what neither refuses is read, answered and scored by the model."""
    config = made(case, tmp_path)
    refused = []
    for check in (lambda: make_plan(config), lambda: described(OwnWorkers(config, print))):
        try:
            check()
        except ConfigError as error:
            refused.append(str(error))
    if case.said:
        assert len(refused) == 2 and refused[0] == refused[1] and re.search(case.said, refused[0]), refused
        return
    assert refused == []
    base = load_backbone(config.model)
    (rows,) = all_rows(config, load_tasks(config, print))
    for split in OBJECTIVES[rows.objective].encode(base, tokenize_task(base, rows)).values():
        every = np.arange(len(split.lengths))
        assert split.lengths.max() <= config.model.max_length
        assert bool(split.losses(split.batch(every)).isfinite().all()) and len(split.judge(every, 3).statistics) == len(
            every
        )


def described(workers: OwnWorkers) -> None:
    """What a run does before it starts workers."""
    workers.check()
    workers.describe()
