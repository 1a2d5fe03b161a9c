"""Paths that mean another place on a cluster."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run import parse_config
from orchestrator.run.cluster_paths import path_findings

DOCSTRINGS = {"name": "a", "source": "docstrings", "task": "kind"}


def levels(folder: Path, shipped: set[str], env: dict[str, str] | None = None, **content: Any) -> list[tuple[str, str]]:
    whole = {
        "name": "r",
        "store": "s3://bucket/x",
        "adapter": {"target_modules": "a"},
        "tasks": [DOCSTRINGS],
        **content,
    }
    found = path_findings(parse_config(whole, "test"), whole, folder, shipped, env or {})
    return [(finding.level, finding.message.split()[0]) for finding in found]


def files(train: str | list[str]) -> list[dict[str, Any]]:
    return [{"name": "a", "source": "files", "train": train, "test": "data/test.csv"}]


def test_a_bucket_and_docstrings_mean_the_same_everywhere(tmp_path: Path) -> None:
    assert levels(tmp_path, set()) == []


@pytest.mark.parametrize(
    ("store", "level"), [(".orthoplex/store", "refuse"), ("~/store", "refuse"), ("/mnt/store", "warn")]
)
def test_folders_as_stores(tmp_path: Path, store: str, level: str) -> None:
    assert levels(tmp_path, set(), store=store) == [(level, "store")]


def test_the_default_store_is_refused(tmp_path: Path) -> None:
    content = {"name": "r", "adapter": {"target_modules": "a"}, "tasks": [DOCSTRINGS]}
    (found,) = path_findings(parse_config(content, "test"), content, tmp_path, set(), {})
    assert found.level == "refuse" and "--set store=" in found.message


def test_files_that_travel(tmp_path: Path) -> None:
    shipped = {"data/train.csv", "data/test.csv"}
    assert levels(tmp_path, shipped, tasks=files("data/train.csv")) == []
    assert levels(tmp_path, {"data/test.csv"}, tasks=files("data/train.csv")) == [("refuse", "tasks.0.train")]
    assert levels(tmp_path, shipped, tasks=files("../train.csv")) == [("refuse", "tasks.0.train")]
    assert levels(tmp_path, shipped, tasks=files("/data/train.csv")) == [("warn", "tasks.0.train")]


def test_lists_and_patterns_are_judged_file_by_file(tmp_path: Path) -> None:
    """A pattern means what it matches in the working directory; one that matches nothing is refused as it stands."""
    (tmp_path / "data").mkdir()
    for name in "abt":
        (tmp_path / f"data/{name}.csv").write_text("text,label\n")
    shipped = {"data/a.csv", "data/b.csv", "data/test.csv"}
    assert levels(tmp_path, shipped, tasks=files(["data/a.csv", "data/b.csv"])) == []
    prompts = {**files(["data/a.csv", "s3://bucket/c.csv"])[0], "format": "prompt_completion"}
    assert levels(tmp_path, shipped, tasks=[prompts], model={"name": "docs-lm", "task_type": "CAUSAL_LM"}) == []
    assert levels(tmp_path, shipped, tasks=files(["data/a.csv", "data/c.csv"])) == [("refuse", "tasks.0.train")]
    assert levels(tmp_path, shipped, tasks=files("data/[ab].csv")) == []
    assert levels(tmp_path, shipped, tasks=files("data/*.csv")) == [("refuse", "tasks.0.train")]
    assert levels(tmp_path, shipped, tasks=files("other/*.csv")) == [("refuse", "tasks.0.train")]


def test_data_dir_counts_where_a_task_reads_it(tmp_path: Path) -> None:
    task = {"name": "a", "source": "cl_benchmark", "dataset": "TC/agnews"}
    assert levels(tmp_path, set(), data_dir="/data") == []
    assert levels(tmp_path, set(), data_dir="/data", tasks=[task]) == [("warn", "data_dir")]
    assert levels(tmp_path, set(), data_dir="bench", tasks=[task]) == [("refuse", "data_dir")]
    assert levels(tmp_path, {"bench/TC/agnews/train.json"}, data_dir="bench", tasks=[task]) == []
    assert levels(tmp_path, set(), {"ORTHOPLEX_DATA_DIR": "/x"}, tasks=[task]) == [("warn", "$ORTHOPLEX_DATA_DIR")]


def test_models_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "my/model").mkdir(parents=True)
    assert levels(tmp_path, set(), model={"name": "hub/model"}) == []
    assert levels(tmp_path, set(), model={"name": "my/model"}) == [("refuse", "model.name")]
    assert levels(tmp_path, {"my/model/config.json"}, model={"name": "my/model"}) == []
    assert levels(tmp_path, set(), model={"name": "/models/x"}) == [("warn", "model.name")]
    assert levels(tmp_path, set(), cluster={"address": "10.0.0.1:6379"}) == [("warn", "cluster.address")]
    assert levels(tmp_path, set(), cluster={"address": "auto"}) == []


def test_paths_of_generative_tasks(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    model = {"name": "docs-lm", "task_type": "CAUSAL_LM"}
    asked = {"name": "a", "source": "files", "format": "messages", "train": "s3://b/a.jsonl", "test": "s3://b/t.jsonl"}
    assert levels(tmp_path, set(), model=model, tasks=[asked]) == []
    template = {**asked, "chat_template": "mine.jinja"}
    assert levels(tmp_path, set(), model=model, tasks=[template]) == [("refuse", "tasks.0.chat_template")]
    assert levels(tmp_path, set(), model=model, tasks=[{**template, "chat_template": "chatml"}]) == []
    benchmark = {"name": "a", "source": "superni", "path": "task1"}
    assert levels(tmp_path, set(), model=model, tasks=[benchmark], data_dir="/x") == [("warn", "data_dir")]
    own = {**benchmark, "data_dir": "/y"}
    assert levels(tmp_path, set(), model=model, tasks=[own], data_dir="/x") == [("warn", "tasks.0.data_dir")]
