"""One base, several versions over it: what is shared, what is followed, and what is freed."""

import gc
import shutil
import time
import weakref
from pathlib import Path

import pytest

from cluster.errors import ConfigError, IntegrityError, StoreError
from cluster.storage import LocalStore
from orchestrator.registry.aliases import promote, rollback
from orchestrator.serve.held import Adapters
from orchestrator.serve.problems import Problem
from orchestrator.serve.settings import ServeSettings
from tests.support.served import Run, track_of


def adapters_of(folder: Path, *names: str, told: list[str] | None = None) -> Adapters:
    settings = ServeSettings(adapters=names, store=str(folder / "store"))
    return Adapters(settings, (told if told is not None else []).append)


@pytest.fixture
def folder(labels_run: Run, tmp_path: Path) -> Path:
    """A copy of the store, whose files a test may break."""
    shutil.copytree(labels_run[1] / "store", tmp_path / "store")
    return tmp_path


def test_the_base_is_in_memory_once(labels_run: Run) -> None:
    adapters = adapters_of(labels_run[1], "team/run@v1", "team/run@v2", "run@live")
    first, second, third = (held.predictor for held in adapters.held)
    own = {name: each.data_ptr() for name, each in adapters.base.model.named_parameters()}
    for predictor in (first, second):
        assert {name: each.data_ptr() for name, each in predictor.base.model.named_parameters()} == own
    assert first is third and first is not second and len(adapters.loaded) == 2


def test_names(labels_run: Run) -> None:
    adapters = adapters_of(labels_run[1], "run@live", "run@v2")
    first, second = adapters.held
    assert [adapters.find(name) for name in ("run@live", "team/run@live", "team/run@v1")] == [first] * 3
    assert adapters.find("team/run@v2") is second
    with pytest.raises(Problem, match="model: is missing; this server has run@live, run@v2"):
        adapters.find(None)
    with pytest.raises(Problem, match="did you mean 'run@live'"):
        adapters.find("run@life")
    assert adapters_of(labels_run[1], "run").find(None).predictor.reference == "team/run@v2"


def test_an_old_version_drains_and_is_freed(folder: Path) -> None:
    told: list[str] = []
    adapters = adapters_of(folder, "team/run@live", told=told)
    (held,) = adapters.held
    old = held.predictor  # as a request has it
    freed = weakref.ref(old)
    promote(track_of(folder), 2, "live")
    adapters.refresh()
    assert held.predictor.reference == "team/run@v2" and told == ["team/run@live: team/run@v2 answers from now on"]
    assert len(old.classify(["new red"])) == 1 and len(adapters.loaded) == 2
    del old
    adapters.refresh()
    assert freed() is None and len(adapters.loaded) == 1
    rollback(track_of(folder), "live")
    adapters.refresh()
    assert held.predictor.reference == "team/run@v1"


def test_a_log_that_did_not_grow_is_not_replayed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = adapters_of(folder, "team/run@live")
    (held,) = adapters.held
    adapters.refresh()
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.serve.held.replay", lambda *_: pytest.fail("replayed"))
        adapters.refresh()
    promote(track_of(folder), 2, "live")
    adapters.refresh()
    assert held.predictor.reference == "team/run@v2"


def test_a_version_that_cannot_be_loaded_leaves_the_one_that_answers(folder: Path) -> None:
    """It is told once, and gone once the alias is moved back."""
    told: list[str] = []
    adapters = adapters_of(folder, "team/run@live", told=told)
    (held,) = adapters.held
    (commit,) = [commit for commit in held.predictor.repertoire.version.state.commits if commit.version == 2]
    broken = folder / "store" / commit.prefix / "adapter.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    promote(track_of(folder), 2, "live")
    for _ in range(2):
        adapters.refresh()
    assert held.predictor.reference == "team/run@v1" and len(adapters.problems) == 1
    assert len(told) == 1 and told[0].endswith("team/run@v1 goes on answering") and "sha256" in told[0]
    rollback(track_of(folder), "live")
    adapters.refresh()
    assert adapters.problems == []


def test_a_store_that_is_away_leaves_all_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = adapters_of(folder, "team/run@live")

    def away(*_: object, **__: object) -> None:
        raise StoreError("store: cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "list", away)
        patch.setattr(LocalStore, "get", away)
        adapters.refresh()
    assert adapters.problems == ["team/run@live: store: cannot be reached"]
    adapters.refresh()
    assert adapters.problems == []


def test_aliases_are_followed_in_a_thread(folder: Path) -> None:
    adapters = Adapters(
        ServeSettings(adapters=("team/run@live",), store=str(folder / "store"), refresh_s=0.02), lambda _: None
    )
    adapters.follow()
    promote(track_of(folder), 2, "live")
    while adapters.held[0].predictor.reference != "team/run@v2":
        time.sleep(0.02)
    adapters.close()
    gc.collect()
    assert not adapters.follower.is_alive()


def test_what_cannot_be_served_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="v9"):
        adapters_of(folder, "team/run@v9")
    with pytest.raises(ConfigError, match="is given twice"):
        adapters_of(folder, "team/run@v1", "team/run@v1")
    with pytest.raises((ConfigError, IntegrityError), match="model"):
        Adapters(
            ServeSettings(adapters=("team/run",), store=str(folder / "store"), model=str(folder / "nowhere")),
            lambda _: None,
        )
