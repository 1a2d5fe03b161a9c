"""What an exported folder says of its tasks is what the run's own log says: an import without options answers alike."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.storage import open_store
from orchestrator.delivery.export import export
from orchestrator.delivery.exported import exported
from orchestrator.delivery.importing import Told, import_lora
from orchestrator.delivery.predictor import Predictor
from orchestrator.registry.references import resolve
from orchestrator.track.state import RunState

Run = tuple[RunState, Path]


@pytest.fixture(scope="module")
def folder(texts_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`texts_run`, exported."""
    made = tmp_path_factory.mktemp("exported") / "texts"
    export(resolve(open_store(str(texts_run[1] / "store")), "team/run@v3"), "peft", made)
    return made


ASKED: dict[str, Any] = {
    "a": ["test 1 red", "cold {blue}"], "qa": ["what is it is ", "test number 3 more is "],
    "chat": [[{"role": "user", "content": "hello"}], [{"role": "user", "content": "what is 3"}]],
}  # fmt: skip

SEEDS: dict[str, Any] = {"chat": {"decoding": {"seed": 3}}}  # which an export does not say


@pytest.mark.parametrize("task", ASKED)
def test_an_import_without_options_answers_as_the_run(
    texts_run: Run, texts: Predictor, folder: Path, task: str
) -> None:
    """oa's stream of three tasks as one LoRA; drawn answers are the same draws, up to float32's rounding of logits."""
    store, base = str(texts_run[1] / "store"), texts.repertoire.run.model.name
    import_lora(
        folder, "team", f"again-{task}", store, Told(model={"name": base}, task={"name": task, **SEEDS.get(task, {})})
    )
    again = Predictor(f"team/again-{task}@v1", store=store)
    ours, theirs = texts.repertoire.tasks[task].description, again.repertoire.tasks[task].description
    assert (ours.labels, ours.answers and ours.answers.max_new_tokens) == (
        theirs.labels, theirs.answers and theirs.answers.max_new_tokens,
    )  # fmt: skip
    if task == "a":
        found, expected = (each.classify(ASKED[task], task=task) for each in (again, texts))
        assert [each.label for each in found] == [each.label for each in expected]
        assert [each.probability for each in found] == pytest.approx([each.probability for each in expected], rel=1e-3)
    else:
        found, expected = (each.generate(ASKED[task], task=task) for each in (again, texts))
        assert [each.answer for each in found] == [each.answer for each in expected]


def test_several_tasks_and_none(folder: Path, texts_run: Run, tmp_path: Path) -> None:
    assert set(exported(folder, None).names) == set(ASKED) and not exported(folder, None).task
    assert exported(folder, "a").model["prompt"] == "text : {text} answer :"
    with pytest.raises(ConfigError, match=r"--task NAME \(the folder says how to ask "):
        import_lora(folder, "team", "new", str(texts_run[1] / "store"), Told(model={}, task={}))
    assert exported(tmp_path, "a").names == ()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", {"tasks": {"a": {"kind": "text"}}}, {"tasks": {"a": {"kind": "nearest", "prompt": [1]}}}],
)
def test_what_was_not_written_by_an_export(tmp_path: Path, content: Any) -> None:
    (tmp_path / "tasks.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=r"tasks.json: is not as `adapters export` writes it"):
        exported(tmp_path, "a")
