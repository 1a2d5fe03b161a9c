"""Finished runs to answer with, made once each."""

from pathlib import Path

import pytest

from orchestrator.track.state import RunState
from tests.support.tiny_models import save_encoder, save_tiny
from tests.support.untrained_runs import WORDS, classification, generative, run_of


@pytest.fixture(scope="session")
def labels_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunState, Path]:
    """An encoder with two tasks of other labels; team/run in the folder's `store`."""
    folder = tmp_path_factory.mktemp("labels")
    tasks = [classification(folder, name, words) for name, words in zip("ab", WORDS, strict=True)]
    base = save_encoder(folder / "base")
    return run_of(folder, {"name": str(base), "max_length": 16}, tasks), folder


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
    return run_of(folder, model, tasks, adapter=adapter), folder
