"""What a version can answer, by its log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, DataError
from cluster.storage import LocalStore
from orchestrator.delivery.export import task_names
from orchestrator.delivery.repertoire import Repertoire, generative, source_row, text_column, version_of
from tests.support.entries import COMMIT
from trainers.data.prompts import Prompt

FILES = {"source": "files", "train": "t.csv", "test": "t.csv"}
TASKS = [
    {"name": "a", **FILES, "text_column": "body", "instruction": "Which one?"}, {"name": "b", **FILES, "max_length": 9},
    {"name": "qa", **FILES, "format": "prompt_completion", "columns": {"prompt": "q"}},
    {"name": "plain", **FILES, "format": "text"},
]  # fmt: skip


@pytest.fixture
def known(tmp_path: Path, fake_run: Callable[..., Any]) -> Callable[..., Repertoire]:
    from orchestrator.config.run import parse_config

    def make(
        upto: str = "run", *, prompt: str = "{text}", tasks: Any = TASKS, adapter: Any = None, joint: bool = False
    ) -> Repertoire:
        model = {"name": "docs-lm", "task_type": "CAUSAL_LM", "prompt": prompt}
        content = {
            "name": "run",
            "store": str(tmp_path / "store"),
            "model": model,
            "tasks": tasks,
            "train": {"joint": joint},
        }
        config = parse_config({**content, "adapter": adapter or {"target_modules": ["o_proj"]}}, "test")
        run = fake_run(*(task["name"] for task in tasks), name="run", config=config)
        labels = {"a": ["x", "y"], "b": ["y", "z"], "c": ["x", "y"]}
        commits = [(len(tasks), "joint")] if joint else [(n, task["name"]) for n, task in enumerate(tasks, start=1)]
        for version, name in commits:
            body = {**COMMIT, "version": version, "index": version - 1, "task": name, "prefix": f"p{version}"}
            run.append("commit", body)
        rows = {"train": 1, "validation": 1, "test": 1}
        described = [
            {
                "name": task["name"],
                "labels": labels.get(task["name"], []),
                "fingerprint": "f",
                "rows": rows,
                "warnings": [],
            }
            for task in tasks
        ]
        run.append("open", {"config": config.model_dump(mode="json"), "tasks": described})
        return Repertoire(version_of(LocalStore(tmp_path / "store"), upto))

    return make


def test_tasks_so_far_and_their_words(known: Callable[..., Repertoire]) -> None:
    knows = known("run@v2", prompt="{instruction}{text} of {labels}:")
    assert list(knows.tasks) == ["a", "b"] and knows.reference.endswith("run@v2")
    way = knows.labels_of(knows.tasks["a"])
    assert (way.index, way.words, way.max_length) == (0, ("x", "y"), None)
    assert way.prompt == Prompt("Which one?\n", " of x, y:") and text_column(knows.tasks["a"].task) == "body"
    assert knows.labels_of(knows.choose("b")).max_length == 9
    with pytest.raises(ConfigError, match=r"union: .* put texts to the model in different ways"):
        knows.union()
    with pytest.raises(ConfigError, match="has learned a, b; name the one that is asked, or choose over the union"):
        knows.choose(None)
    with pytest.raises(ConfigError, match="task 'a': union chooses from the labels of all tasks; give one of them"):
        knows.asked("a", union=True)


def test_the_newest_version_of_a_run(known: Callable[..., Repertoire]) -> None:
    knows = known()
    assert knows.reference.endswith("@v4") and len(knows.tasks) == 4
    assert generative(knows.choose("qa")).form == "prompt_completion"
    with pytest.raises(ConfigError, match="task 'plain': it was trained on plain text, which asks nothing"):
        generative(knows.choose("plain"))
    with pytest.raises(ConfigError, match="task 'qa': it generates answers"):
        knows.labels_of(knows.choose("qa"))


def test_one_set_of_labels_needs_no_name(known: Callable[..., Repertoire]) -> None:
    same = [{"name": "a", **FILES}, {"name": "c", **FILES}]
    knows = known(tasks=same)
    assert knows.choose(None).task.name == "c" and knows.asked(None, union=True) is None
    assert knows.union().words == ("x", "y")


def test_tasks_that_were_trained_at_once(known: Callable[..., Repertoire]) -> None:
    """One commit, which is the version of as many as there are."""
    knows = known(tasks=TASKS[:2], joint=True)
    assert task_names(knows.version, [*knows.version.stream]) == ("a", "b")  # those that an exported folder asks
    assert list(knows.tasks) == ["a", "b"] and [each.index for each in knows.tasks.values()] == [0, 1]
    assert knows.reference.endswith("@v2")


def test_an_adapter_of_its_own_needs_the_task(known: Callable[..., Repertoire]) -> None:
    same = [{"name": "a", **FILES}, {"name": "c", **FILES}]
    knows = known(tasks=same, adapter={"method": "lora", "target_modules": ["o_proj"], "mode": "per_task"})
    with pytest.raises(ConfigError, match=r"name the one that is asked: --task NAME \(in Python task=NAME\)$"):
        knows.choose(None)
    with pytest.raises(ConfigError, match=r"union: .* with an adapter of its own \(lora\)"):
        knows.union()


def test_a_run_without_versions(tmp_path: Path, fake_run: Callable[..., Any]) -> None:
    fake_run("a")
    (store,) = tmp_path.rglob("t")
    with pytest.raises(ConfigError, match="has committed no task yet"):
        version_of(LocalStore(store.parent), "stream")


def test_what_is_asked_in_its_plain_form(known: Callable[..., Repertoire]) -> None:
    task = known().choose("qa")
    assert '"prompt":"why"' in source_row(task, {"prompt": "q"}, "f", 3, {"q": "why"}).content
    assert '"prompt":"why"' in source_row(task, {}, "f", 3, "why").content
    assert '"messages"' in source_row(task, {}, "f", 3, [{"role": "user", "content": "why"}]).content
    with pytest.raises(DataError, match=r"task qa: f row 3: .*no column 'q', only x"):
        source_row(task, {"prompt": "q"}, "f", 3, {"x": "why"})
