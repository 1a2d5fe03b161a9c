"""A stream that begins as another: copies, cut at any entry, that stand without their source."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import ConfigError, StoreError
from orchestrator.config.run import RunConfig
from orchestrator.run.controller import Controller
from orchestrator.run.driver_log import RunLog
from orchestrator.run.fork import Fork, plan_fork, take_over
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from tests.orchestrator.conftest import FakeRun
from trainers.messages import Progress
from trainers.method_config import AdapterConfig

Begin = Callable[..., FakeRun]


@pytest.fixture
def source(fake_run: Begin) -> FakeRun:
    run = fake_run("a", "b", "c")
    for scores in ([0.5, 0.1, 0.2], [0.4, 0.7, 0.3]):
        run.commit(scores)
    return run


def begun(source: FakeRun, fork: Fork, name: str = "other") -> RunLog:
    log = RunLog(Track(source.track.store, "default", name))
    log.take({}, 120, lambda _: None)
    take_over(log, fork)
    return log


@pytest.mark.parametrize(("from_task", "tasks"), [(None, 2), (1, 0), (2, 1), (3, 2)])
def test_the_tasks_before_are_taken(source: FakeRun, from_task: int | None, tasks: int) -> None:
    before = [entry.sha256 for entry in source.track.entries()]
    log = begun(source, plan_fork(source.track, from_task))
    assert [entry.sha256 for entry in source.track.entries()] == before
    shutil.rmtree(source.root / "t/default/stream")  # what was copied stands alone
    assert [commit.task for commit in log.state.commits] == ["a", "b"][:tasks]
    assert [task.name for task in log.state.tasks] == ["a", "b"][:tasks]
    for index, commit in enumerate(log.state.commits):
        manifest = log.track.manifest_of(commit)
        assert log.track.read_file(commit.prefix, manifest, "training.parquet")
        assert commit.forked_from == f"default/stream@v{index + 1}"
    rows = [[0.5], [0.4, 0.7]] if tasks == 2 else [[0.5]] if tasks else []
    assert [row[: index + 1] for index, row in enumerate(log.state.matrix("validation"))] == rows
    assert all(len(commit.validation) == tasks for commit in log.state.commits)  # the third task may be another


def test_a_fork_that_was_cut_is_gone_on_with(source: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = plan_fork(source.track, None)
    whole = type(source.track.store).put

    def full(store: object, key: str, data: bytes) -> None:
        if "other/v/" in key and "manifest" in key:
            raise StoreError("no room")
        whole(source.track.store, key, data)

    monkeypatch.setattr(type(source.track.store), "put", full)
    with pytest.raises(StoreError):
        begun(source, fork)
    monkeypatch.undo()
    log = begun(source, fork)
    assert [commit.task for commit in log.state.commits] == ["a", "b"]
    assert len(begun(source, fork).state.commits) == 2  # and once more, where nothing is missing


@pytest.mark.parametrize(("from_task", "message"), [(0, "use 1 to 3"), (4, "use 1 to 3")])
def test_tasks_that_are_not_there(source: FakeRun, from_task: int, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"--from-task {from_task}.*{message}"):
        plan_fork(source.track, from_task)


def test_nothing_to_fork(fake_run: Begin) -> None:
    with pytest.raises(ConfigError, match="no committed task"):
        plan_fork(fake_run("a").track, None)


def test_names_that_are_taken(source: FakeRun, fake_run: Begin) -> None:
    fake_run("x", name="taken")
    with pytest.raises(ConfigError, match="exists already"):
        begun(source, plan_fork(source.track, 2), "taken")
    begun(source, plan_fork(source.track, 2))
    with pytest.raises(ConfigError, match="the first 1 tasks of default/stream"):
        begun(source, plan_fork(source.track, 3))


def test_tasks_that_another_method_learned_are_not_gone_on_from(source: FakeRun) -> None:
    content = source.config.model_dump(mode="json")
    lora = {"method": "lora", "target_modules": ["output.dense"]}
    config = RunConfig.model_validate({**content, "name": "other", "adapter": lora})
    said = "adapter.method: lora cannot go on from default/stream, whose tasks oa learned; set adapter.method to oa"
    with pytest.raises(ConfigError, match=f"^{said}$"):
        Controller(config, Silent(), plan_fork(source.track, None)).run()


def test_tasks_that_kept_nothing_to_protect_them_are_not_gone_on_from(source: FakeRun) -> None:
    old = {"functional": {"weight": 0.0}, "orthogonality": {"weight": 5.0, "side": "output"}}
    fork = Fork(source.track, 2, AdapterConfig(target_modules=["dense"], **old))

    def going_on(**adapter: Any) -> None:
        fork.check(AdapterConfig(target_modules=["dense"], **adapter))

    with pytest.raises(
        ConfigError, match=r"kept nothing that `functional`.*functional.weight=0.*side=output.*weight=5$"
    ):
        going_on()
    with pytest.raises(ConfigError, match="kept nothing"):
        going_on(functional={"weight": 0.0}, orthogonality={"side": "input"})
    going_on(**old)
    going_on(orthogonality={"weight": 1.0})  # beside the functional penalty of later tasks
    going_on(functional={"weight": 0.0}, orthogonality={"side": "none"})  # asked for


class Silent:
    """A reporter."""

    def say(self, message: str) -> None: ...
    def progress(self, task: str, progress: Progress) -> None: ...
    def taken(self, state: RunState) -> None: ...
    def committed(self, state: RunState) -> None: ...
