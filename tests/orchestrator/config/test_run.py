"""What a configuration holds, its defaults, and the template that shows them."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cluster.errors import ConfigError
from orchestrator.config.errors import key_paths
from orchestrator.config.run import CostConfig, RunConfig, load_config
from tests.support.configurations import BASE, TASK, Load, tasks
from trainers.data.generative.config import GenerativeTask
from trainers.data.sources import ClBenchmarkTask, DocstringsTask, FilesTask, HubTask
from trainers.method_config import AdapterConfig

ROOT = Path(__file__).parents[3]


# --- what is accepted


def test_the_least_configuration(load: Load) -> None:
    config = load(BASE)
    assert (config.team, config.model.name, config.adapter.max_rank, config.deepspeed.zero_stage) == (
        "default", "minilm", 8, 2,
    )  # fmt: skip
    assert config.store == str(Path.cwd() / ".orthoplex/store")
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", [p.relative_to(ROOT) for p in ROOT.glob("configs/**/*.yaml") if "sweeps" not in p.parts]
)
def test_shipped_configurations_load(path: Path) -> None:
    load_config(ROOT / path)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train: {learning_rate: 1e-3}", "train.learning_rate", 0.001),  # a text in YAML 1.1
        ("train: {epochs: '3'}", "train.epochs", 3),
        ("train: {epochs: 3.0}", "train.epochs", 3),
        ("train: {learning_rate: 1}", "train.learning_rate", 1.0),
        ("cluster: {use_gpu: yes}", "cluster.use_gpu", True),
        ("guards: {max_forgetting: null}", "guards.max_forgetting", None),
        ("store: s3://bucket/prefix/", "store", "s3://bucket/prefix"),
        ("store: /a/b/../c", "store", "/a/c"),
        ('data_dir: "a b: c"', "data_dir", "a b: c"),
        ("team: 2024.a_b-c", "team", "2024.a_b-c"),
    ],
)
def test_values(load: Load, text: str, key: str, value: Any) -> None:
    found: Any = load(BASE + text)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_every_kind_of_task(load: Load) -> None:
    config = load(
        tasks(
            TASK,
            "{name: b, source: cl_benchmark, dataset: TC/agnews, max_train_rows: 5}",
            "{name: c, source: files, train: a.csv, test: b.jsonl, labels: [x, 'no']}",
            "{name: d, source: hub, dataset: ag_news, config_name: null}",
        )
    )
    assert [type(task) for task in config.tasks] == [DocstringsTask, ClBenchmarkTask, FilesTask, HubTask]


def test_data_folder(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORTHOPLEX_DATA_DIR", raising=False)
    assert load(BASE).data_folder is None
    monkeypatch.setenv("ORTHOPLEX_DATA_DIR", "~/elsewhere")
    assert load(BASE).data_folder == Path.home() / "elsewhere"
    assert load(BASE, "data_dir=/here").data_folder == Path("/here")
    with pytest.raises(ConfigError, match=r"data_dir: '~nobody-of-that-name/x': no such home folder"):
        _ = load(BASE, "data_dir=~nobody-of-that-name/x").data_folder


# --- the template of `orthoplex init`

TEMPLATE = files("orchestrator").joinpath("templates/config.yaml").read_text("utf-8")


def test_the_template_is_valid_as_it_is(load: Load) -> None:
    config = load(TEMPLATE)
    assert {task.source for task in config.tasks} == {"docstrings"}
    assert [task.name for task in config.tasks] == ["library", "section", "kind", "area"]


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_template_shows_every_key(load: Load) -> None:
    written = dict(leaves(yaml.safe_load(TEMPLATE)))
    sections = {path.rpartition(".")[0] for path in key_paths(RunConfig)} - {""}
    of_others = {path for path in key_paths(RunConfig) if path.startswith("adapter.")}
    of_others -= {*key_paths(AdapterConfig, "adapter.")}  # README has them
    shown_as_null = {
        "train.replay": {"train.replay.share"},
        "cost": {"cost.gpu_hour", "cost.currency", "cost.base_flops"},
    }
    shown = {path for key in written for path in shown_as_null.get(key, {key})}
    assert shown == set(key_paths(RunConfig)) - sections - of_others
    commented = re.sub(r"^  # (?=- name| )", "  ", TEMPLATE, flags=re.MULTILINE)
    config = load(commented, "model.task_type=CAUSAL_LM")
    sources = ["cl_benchmark", "files", "hub", "files", "superni", "trace"]
    assert [task.source for task in config.tasks] == ["docstrings"] * 4 + sources
    limits = {
        "classes",
        "instruction",
        "max_train_rows",
        "max_test_rows",
        "resources",
        "max_length",
        "training",
    }  # once
    of_answers = GenerativeTask.model_fields.keys() - limits  # shown once too
    for task in config.tasks[4:]:
        assert type(task).model_fields.keys() - limits - of_answers <= task.model_fields_set
    assert of_answers <= config.tasks[7].model_fields_set
    assert limits <= config.tasks[4].model_fields_set


def test_the_template_shows_the_defaults(load: Load) -> None:
    """A value is the default, or its line names the default, or says that there is none."""
    required = {"name": "x", "adapter": {"target_modules": "x"}, "tasks": [yaml.safe_load(TASK)]}
    defaults = dict(leaves(RunConfig.model_validate(required).model_dump(mode="json")))
    no_default = {"name", "adapter.target_modules", "tasks"}
    section: dict[int, str] = {}
    for line in TEMPLATE.splitlines():
        match = re.match(r"( *)(\w+):( \S+)?.*?(\(default (.+)\))?$", line)
        if not match or line.lstrip().startswith("#"):
            continue
        section[len(match[1])] = match[2]
        path = ".".join(section[depth] for depth in sorted(section) if depth <= len(match[1]))
        assert ("(no default)" in line) == (path in no_default), line
        if path in defaults and path not in no_default | {"store"}:
            value = yaml.safe_load(match[5] or line)
            assert (value if match[5] else value[match[2]]) == defaults[path], line
            assert not match[5] or yaml.safe_load(line)[match[2]] != defaults[path], line


def test_what_was_not_there_before_is_stored_only_if_it_is_used(load: Load) -> None:
    """A price, and macro F1: runs without them are stored as before."""
    plain = load(BASE).model_dump(mode="json")
    assert "cost" not in plain and "evaluate" not in plain
    priced = load(BASE, "cost={gpu_hour: 2.5}", "evaluate.macro_f1=true").model_dump(mode="json")
    assert priced["cost"] == {"gpu_hour": 2.5, "currency": "USD"} and priced["evaluate"]["macro_f1"] is True
    assert {key: value for key, value in priced.items() if key not in ("cost", "evaluate")} == plain
    compared = load(BASE, "cost={base_flops: 4.0e+21}").model_dump(mode="json")
    assert compared["cost"] == {"gpu_hour": None, "currency": "USD", "base_flops": 4e21}
    for section in (priced["cost"], compared["cost"]):
        assert CostConfig.stored(section).model_dump(mode="json") == section
    for wrong, said in (
        ("{gpu_hour: -1}", "cost.gpu_hour"),
        ("{currency: EUR}", "cost.gpu_hour"),
        ("2.5", "cost"),
        ("{base_flops: 0}", "cost.base_flops"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(BASE, f"cost={wrong}")
