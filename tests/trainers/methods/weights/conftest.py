"""Tiny models on disk, one process that is a group of its own, and streams of two tasks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.method_stream import MethodStream
from tests.support.tiny_models import save_tiny
from trainers.any_method import AnyMethod
from trainers.methods.registry import method_for

New = Callable[..., MethodStream]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Iterator[Path]:
    """Folders of tiny models."""
    folder = tmp_path_factory.mktemp("bases")
    for family in ("gpt2", "llama", "qwen2"):
        save_tiny(family, folder / family)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
            patch.setenv(name, str(value))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield folder
        torch.set_num_threads(threads)


@pytest.fixture
def new(bases: Path, tmp_path: Path) -> New:
    """Makes a stream of a method over a model of a family, each in a store of its own."""

    def made(family: str, kind: type[Any], **section: Any) -> MethodStream:
        config: AnyMethod = kind.model_validate(section)
        store = tmp_path / str(len([*tmp_path.iterdir()]))
        store.mkdir()
        return MethodStream(bases / family, config, lambda model: method_for(model, config, torch.float32), store)

    return made
