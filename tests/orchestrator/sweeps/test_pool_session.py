"""A session has a pool as large as the cluster allows, ready before it is used and gone after; no Ray is started."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Interrupted
from cluster.resources import ClusterConfig
from orchestrator.sweeps import pool_session
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.pool_session import imported_ahead, session
from tests.support.sweeps import sweep_of


class Fakes:
    """Stand in for Ray, signals and the pool; `told` is what happened, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.stops: list[BaseException] = []

    @contextmanager
    def ray_session(self, cluster: ClusterConfig) -> Iterator[None]:
        self.told.append(("ray", cluster.num_workers.max))
        yield
        self.told.append("ray left")

    @contextmanager
    def stop_signals(self, say: Any) -> Iterator[Callable[[], None]]:
        yield self.stop

    def stop(self) -> None:
        if self.stops:
            raise self.stops.pop()

    @contextmanager
    def pool(self, cluster: ClusterConfig, groups: int, model: Any, folder: Any) -> Iterator[str]:
        self.told.append(("pool", groups, cluster.num_workers.max, model and model.name))
        yield "the pool"
        self.told.append("pool left")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes()
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 6.0})
    for name, fake in {"ray_session": made.ray_session, "stop_signals": made.stop_signals, "Pool": made.pool}.items():
        monkeypatch.setattr(pool_session, name, fake)
    monkeypatch.setattr(pool_session, "IMPORTS", ())
    return made


def sweep(**run: Any) -> SweepConfig:
    return sweep_of(run={"cluster": {"num_workers": 2}, **run})


def test_as_many_groups_as_the_cluster_holds(fakes: Fakes) -> None:
    said: list[str] = []
    with session(sweep(), said.append) as found:
        assert (found.pool, found.at_once) == ("the pool", 3)  # 6 CPUs, 2 workers of one each
        assert found.config.run.cluster.num_workers.max == 2
    assert said == ["starting 3 worker groups"]
    assert fakes.told == [("ray", 2), ("pool", 3, 2, "minilm"), "pool left", "ray left"]


def test_imports_are_this_threads_while_workers_start(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are not to import the same packages; and the pool is on its way before what takes seconds."""
    here = threading.current_thread()
    monkeypatch.setattr(pool_session, "IMPORTS", ("torch", "what.comes.next"))
    monkeypatch.setattr(
        pool_session, "import_module", lambda name: fakes.told.append((name, threading.current_thread() is here))
    )
    with session(sweep(), lambda _: None):
        ray, pool, *imported = fakes.told
        assert (ray[0], pool[0]) == ("ray", "pool") and imported == [("torch", True), ("what.comes.next", True)]


def test_zero_3_loads_its_own_base(fakes: Fakes) -> None:
    with session(sweep(deepspeed={"zero_stage": 3}), lambda _: None):
        pass
    assert ("pool", 3, 2, None) in fakes.told


def test_a_signal_at_the_end_is_not_lost(fakes: Fakes) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), session(sweep(), lambda _: None):
        fakes.stops.append(Interrupted("interrupted by SIGTERM"))
    assert "pool left" in fakes.told


def test_imports_ahead_survive_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_at_once.py").write_text("raise RuntimeError('no')\n")
    (tmp_path / "comes_after.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    imported_ahead(["breaks_at_once", "no_such_module", "comes_after"]).join()
    assert "comes_after" in sys.modules and "breaks_at_once" not in sys.modules
    del sys.modules["comes_after"]
