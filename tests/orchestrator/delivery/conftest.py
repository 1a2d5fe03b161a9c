"""Finished runs to answer with, made once each, and packages to answer with that are not ours."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from orchestrator.delivery.predictor import Predictor
from orchestrator.track.state import RunState
from tests.support.tiny_models import save_encoder
from tests.support.untrained_runs import WORDS, classification, decoder_run_of, run_of

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
    """See `decoder_run_of`. Turns are drawn."""
    folder = tmp_path_factory.mktemp("texts")
    chat = {"decoding": {"temperature": 1.5, "seed": 3, "max_new_tokens": 3, "stop": ["a"]}}
    return decoder_run_of(folder, ["token_f1", "nll"], chat, evaluate=EVALUATE), folder


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
