"""Finished runs to answer with, made once each, and packages to answer with that are not ours."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from orchestrator.delivery.predictor import Predictor
from orchestrator.track.state import RunState
from tests.support.tiny_models import save_encoder, save_tiny
from tests.support.untrained_runs import WORDS, classification, generative, run_of

EVALUATE = {"keep_answers": 4, "macro_f1": True}


@pytest.fixture(scope="session")
def labels_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunState, Path]:
    """An encoder with two tasks of other labels; team/run in the folder's `store`."""
    folder = tmp_path_factory.mktemp("labels")
    tasks = [classification(folder, name, words) for name, words in zip("ab", WORDS, strict=True)]
    base = save_encoder(folder / "base")
    return run_of(folder, {"name": str(base), "max_length": 16}, tasks, evaluate=EVALUATE), folder


@pytest.fixture(scope="session")
def texts_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunState, Path]:
    """A decoder that chooses labels (a), answers prompts (qa) and drawn turns of conversations (chat)."""
    folder = tmp_path_factory.mktemp("texts")
    base = save_tiny("llama", folder / "base")
    template = folder / "turns.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role }} : {{ m.content }} [SEP] {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    chat = {
        "chat_template": str(template),
        "decoding": {"temperature": 1.5, "seed": 3, "max_new_tokens": 3, "stop": ["a"]},
    }
    tasks = [
        classification(folder, "a", WORDS[0]),
        generative(folder, "qa", "prompt_completion", metrics=["token_f1", "nll"]),
        generative(folder, "chat", "messages", metrics=["rouge_l"], **chat),
    ]
    model = {"name": str(base), "task_type": "CAUSAL_LM", "prompt": "text : {text} answer :"}
    adapter = {"target_modules": ["o_proj", "down_proj"], "max_rank": 4, "threshold": 0.0, "budget_weight": 0.0}
    return run_of(folder, model, tasks, adapter=adapter, evaluate=EVALUATE), folder


@pytest.fixture(scope="module")
def labels(labels_run: tuple[RunState, Path]) -> Predictor:
    """Version 2 of `labels_run`."""
    return Predictor("team/run@v2", store=str(labels_run[1] / "store"))


@pytest.fixture(scope="module")
def texts(texts_run: tuple[RunState, Path]) -> Predictor:
    """Version 3 of `texts_run`."""
    return Predictor("team/run@v3", store=str(texts_run[1] / "store"))


def needed_by(*names: str) -> dict[str, metadata.Distribution]:
    """The installed distributions that these ones ask for, without extras, and they themselves."""
    from packaging.requirements import Requirement

    found: dict[str, metadata.Distribution] = {}
    left = [*names]
    while left:
        if (name := re.sub("[-_.]+", "-", left.pop()).lower()) in found:
            continue
        found[name] = metadata.distribution(name)
        wanted = [Requirement(text) for text in found[name].requires or ()]
        left += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="session")
def only_transformers_and_peft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, by links, which holds transformers, peft and what they need, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    for distribution in needed_by("transformers", "peft").values():
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return site
