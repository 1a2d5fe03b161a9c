"""Services in this process, without Ray, over runs that were made without training."""

from collections.abc import Iterator

import pytest

from orchestrator.registry.aliases import promote
from orchestrator.serve.app import Service
from tests.support.served import Run, service_of, track_of
from tests.support.tiny_models import save_encoder
from tests.support.untrained_runs import WORDS, classification, decoder_run_of, run_of


@pytest.fixture(scope="session")
def labels_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An encoder with two tasks of the same labels; `live` names version 1."""
    folder = tmp_path_factory.mktemp("labels")
    tasks = [classification(folder, name, WORDS[0]) for name in "ab"]
    state = run_of(folder, {"name": str(save_encoder(folder / "base")), "max_length": 16}, tasks)
    promote(track_of(folder), 1, "live")
    return state, folder


@pytest.fixture(scope="session")
def texts_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """See `decoder_run_of`."""
    folder = tmp_path_factory.mktemp("texts")
    return decoder_run_of(folder, ["token_f1"]), folder


@pytest.fixture
def labels(labels_run: Run) -> Iterator[Service]:
    """Serves team/run@live."""
    service = service_of(labels_run[1], "team/run@live")
    yield service
    service.close()


@pytest.fixture(scope="module")
def texts(texts_run: Run) -> Iterator[Service]:
    """Serves team/run."""
    service = service_of(texts_run[1], "team/run", "team/run@v2")
    yield service
    service.close()
