"""A trial: which first tasks are one, who trains it, and what is reported of a stream that ends in any way."""

import asyncio
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from cluster.errors import ConfigError, GuardStop, Interrupted, TrainingError
from orchestrator.config.errors import key_paths
from orchestrator.config.run import RunConfig
from orchestrator.run.driver_log import RunLog
from orchestrator.run.fork import Fork, plan_fork, take_over
from orchestrator.sweeps import trial as trial_module
from orchestrator.sweeps.first_tasks import FirstTasks
from orchestrator.sweeps.space import own_keys, searchable, with_values
from orchestrator.sweeps.trial import (
    PoolWorkers,
    Shared,
    StreamTrial,
    beginning,
    first_task_key,
    fork_of,
    results,
    row,
)
from orchestrator.track.events import TaskDescription
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from tests.orchestrator.conftest import FakeRun, config_of
from tests.support.sweeps import run_content, sweep_of
from trainers.messages import Job, Order
from trainers.method_config import AdapterConfig
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.history import History
from trainers.methods.oa.subspace import Basis

Begin = Callable[..., FakeRun]
OTHERS = {  # for each searchable key another value than the run has
    "adapter.max_rank": 8, "adapter.threshold": 0.25, "adapter.budget_weight": 0.5, "adapter.min_rank": 1,
    "adapter.max_parameters": 500,
    "adapter.history": "concatenated", "adapter.rounding": "stochastic", "adapter.orthogonality.weight": 1.0,
    "adapter.orthogonality.mode": "projection", "adapter.orthogonality.side": "both",
    "adapter.orthogonality.energy": 0.5, "adapter.orthogonality.max_occupancy": 0.1,
    "adapter.orthogonality.saturation": "drop", "adapter.initial": "task", "adapter.train_down": False,
    "adapter.functional.weight": 5.0, "adapter.functional.directions": 8, "adapter.functional.metric": "none",
    "adapter.functional.tasks": 2, "train.epochs": 1,
     "train.batch_size": 8, "train.min_steps": 50,
    "train.max_steps": 50,
    "train.learning_rate": 0.5, "train.budget_learning_rate_factor": 2.0, "train.warmup_steps": 0,
    "train.weight_decay": 0.1, "train.max_grad_norm": 0.5, "train.seed": 1,
}  # fmt: skip
LOW_RANK = {"adapter.rank": 2, "adapter.alpha": 1.0, "adapter.dropout": 0.5, "adapter.rounding": "stochastic"}
OF_METHODS: dict[str, dict[str, Any]] = {  # the same of each other method's own keys
    "lora": {"adapter.rank": 8, "adapter.alpha": 1.0, "adapter.dropout": 0.5, "adapter.mode": "per_task"},
    "incremental_lora": LOW_RANK,
    "olora": {**LOW_RANK, "adapter.orthogonality_weight": 1.0, "adapter.norm_weight": 0.5},
    "inflora": {**LOW_RANK, "adapter.energy": 0.5, "adapter.horizon": 3},
    "ella": {**LOW_RANK, "adapter.alignment_weight": 2.0},
    "adalora": {
        **LOW_RANK, "adapter.mode": "per_task", "adapter.initial_rank": 9, "adapter.initial_share": 0.2,
        "adapter.final_share": 0.2, "adapter.interval": 5, "adapter.beta1": 0.5, "adapter.beta2": 0.5,
        "adapter.orthogonality_weight": 1.0,
    },
    "full": {},
    "ewc": {"adapter.weight": 10.0, "adapter.decay": 0.5, "adapter.fisher_rows": 5},
    "osft": {"adapter.effective_rank": 0.25, "adapter.rank_growth": 0.1, "adapter.projection": "gradients"},
}  # fmt: skip
ON_HISTORY = {f"adapter.orthogonality.{key}" for key in ("weight", "mode")}


# --- which first tasks are one


def key_with(path: str = "name", value: Any = "other", *more: tuple[str, Any], **sections: Any) -> str:
    content = RunConfig.model_validate(run_content(**sections)).model_dump(mode="json")
    for place, given in [(path, value), *more]:
        content = with_values(content, {place: given})
    return first_task_key(RunConfig.model_validate(content))


@pytest.mark.parametrize("path", [path for path in key_paths(RunConfig) if searchable(path) and path in OTHERS])
def test_a_first_task_is_shared_where_only_history_is_treated_otherwise(path: str) -> None:
    assert (key_with(path, OTHERS[path]) == key_with()) == (path in ON_HISTORY)


def of_method(method: str) -> dict[str, Any]:
    return {"adapter": {"method": method, "target_modules": ["output.dense"]}}


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, keys in OF_METHODS.items() for path in keys])
def test_of_other_methods_each_key_makes_a_first_task_of_its_own(method: str, path: str) -> None:
    assert key_with(path, OF_METHODS[method][path], **of_method(method)) != key_with(**of_method(method))


def test_together_they_are_shared_too() -> None:
    assert key_with(*("name", "b"), *((path, OTHERS[path]) for path in ON_HISTORY)) == key_with()


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("tasks", run_content()["tasks"][:1], True),
        ("tasks", run_content()["tasks"][::-1], False),
        ("tasks", [{**run_content()["tasks"][0], "max_train_rows": 9}], False),
        ("guards", {"max_forgetting": 0.1}, True),
        ("cluster", {"num_workers": 1}, True),
        ("train.eval_batch_size", 8, True),
        ("model.max_length", 32, False),
        ("adapter.target_modules", ["query"], False),
        ("data", {"max_train_rows": 9}, False),
        ("tasks.0.max_length", 32, False),
        ("tasks.0.training.epochs", 1, False),
        ("tasks.0.training.epochs", 3, True),  # as the run has it
        ("tasks.1.training.epochs", 1, True),
    ],
)
def test_what_else_makes_a_first_task(path: str, value: Any, same: bool) -> None:
    assert (key_with(path, value) == key_with()) == same


def test_what_a_task_overrides_makes_no_first_task_of_its_own() -> None:
    own = ("tasks.0.training.learning_rate", 0.25)
    assert key_with(*own, ("train.learning_rate", 0.5)) == key_with(*own) == key_with("train.learning_rate", 0.25)
    assert key_with(*own, ("train.epochs", 1)) != key_with(*own)


def adapters(**orthogonality: Any) -> AdapterConfig:
    return AdapterConfig.model_validate({"target_modules": ["q"], "max_rank": 4, "orthogonality": orthogonality})


@pytest.mark.parametrize("side", ["output", "input", "both"])
def test_mode_and_weight_change_nothing_without_a_history(side: str) -> None:
    """The mathematics that sharing rests on: without Q the projection is the identity and the penalty is 0, to the
    bit, in values and in gradients of task + λ · L_orth."""
    widths, found = {"a.q": 16, "b.q": 16, "a.o": 24}, []
    empty = {name: torch.zeros(width, 0) for name, width in widths.items()}
    for mode, weight in (("penalty", 5.0), ("projection", 0.5)):
        settings = adapters(mode=mode, weight=weight, side=side)
        bank = AdapterBank(widths, settings, torch.Generator().manual_seed(0), empty, empty)
        draw = torch.Generator().manual_seed(1)
        for name, parameter in bank.named_parameters():
            if name.startswith("W2"):
                parameter.data = torch.randn(parameter.shape, generator=draw)
        *matrices, orthogonality, budget = bank(torch.float32)
        assert float(orthogonality) == 0
        (sum(matrix.square().sum() for matrix in matrices) + weight * orthogonality + budget).backward()
        found.append([*matrices, budget, *(parameter.grad for parameter in bank.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def room(orthogonality: dict[str, Any]) -> float:
    """The occupancy that the commit of a first task has, which writes 8 of 16 directions; guards read it."""
    columns = torch.linalg.qr(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)))[0]
    part = ModuleAdapter(torch.zeros(8, 16), columns, torch.ones(8))
    history = History({"q": torch.nn.Linear(16, 16)}, adapters(**orthogonality), torch.float32)
    history.extend(TaskAdapter({"q": part}, {"q": Basis(columns, torch.ones(8))}, {}))
    return history.occupancy()["q"]["written"]


def test_first_tasks_that_are_shared_say_the_same_of_the_room() -> None:
    """A commit is copied whole: one that a trial takes over must not keep its own guard on `max_occupancy` from acting.
    With `saturation: drop` the commit says 4 of 16, with `stop` 8 of 16, which ends a stream of max_occupancy 0.25."""
    assert room({"saturation": "stop", "max_occupancy": 0.25}) == 8 / 16
    path = "adapter.orthogonality"
    stop, drop = (
        key_with("name", "x", (f"{path}.max_occupancy", 0.25), (f"{path}.saturation", how)) for how in ("stop", "drop")
    )
    assert stop != drop or room({"saturation": "drop", "max_occupancy": 0.25}) == 8 / 16


# --- who trains it


def together(scene: Callable[[FirstTasks], Any], trained: dict[str, str] | None = None) -> None:
    async def play() -> None:
        await asyncio.wait_for(scene(FirstTasks(trained or {})), 30)

    asyncio.run(play())


async def turns() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_first_one_trains_and_the_second_waits() -> None:
    async def scene(firsts: FirstTasks) -> None:
        assert await firsts.claim("key", "a") == "a"
        second = asyncio.create_task(firsts.claim("key", "b"))
        await turns()
        assert not second.done()
        assert await firsts.claim("other key", "c") == "c"  # another first task is not waited for
        await firsts.settle("c", True)
        await turns()
        assert not second.done()
        await firsts.settle("a", True)
        assert await second == "a"
        await firsts.settle("a", False)  # how it ends later changes nothing
        assert await firsts.claim("key", "d") == "a"

    together(scene)


@pytest.mark.parametrize("waiting", [1, 2, 30])
def test_one_of_those_that_wait_takes_over(waiting: int) -> None:
    """Each owner ends without; then another one trains, and in the end all the rest begin as the last one's forks."""

    async def scene(firsts: FirstTasks) -> None:
        assert await firsts.claim("key", "run-0") == "run-0"
        asked = {
            f"run-{n}": asyncio.create_task(firsts.claim("key", f"run-{n}")) for n in range(1, waiting + 1)
        }  # fmt: skip
        owner = "run-0"
        for _ in range(min(waiting, 5)):
            await turns()
            assert not any(task.done() for task in asked.values())
            await firsts.settle(owner, False)
            await turns()
            (owner,) = (name for name, task in asked.items() if task.done())
            assert await asked.pop(owner) == owner
        await firsts.settle(owner, True)
        assert {await task for task in asked.values()} <= {owner} and len(asked) == waiting - min(waiting, 5)

    together(scene)


def test_what_was_trained_in_an_earlier_start_is_not_waited_for() -> None:
    async def scene(firsts: FirstTasks) -> None:
        assert await firsts.claim("key", "b") == "old"
        assert await firsts.claim("new", "b") == "b"
        await firsts.settle("old", False)
        assert await firsts.claim("key", "c") == "old"

    together(scene, {"key": "old"})


def test_a_trial_that_is_tried_again_claims_again() -> None:
    async def scene(firsts: FirstTasks) -> None:
        assert [await firsts.claim("key", "a") for _ in range(3)] == ["a"] * 3
        await firsts.settle("a", False)
        assert await firsts.claim("key", "b") == "b"

    together(scene)


# --- what was measured


def scores(seed: int, tasks: int) -> list[list[float]]:
    """An accuracy matrix in tenths, as a split of ten rows has them."""
    draw = random.Random(seed)
    return [[draw.randrange(11) / 10 for _ in range(tasks)] for _ in range(tasks)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def measures(r: Sequence[Sequence[float]], done: int) -> tuple[float, float | None, float | None]:
    """AA, BWT and forgetting after `done` tasks, by their definitions."""
    last = r[done - 1]
    if done == 1:
        return last[0], None, None
    bwt = mean([last[j] - r[j][j] for j in range(done - 1)])
    lost = mean([max(r[l][j] for l in range(j, done - 1)) - last[j] for j in range(done - 1)])  # noqa: E741
    return mean(last[:done]), bwt, lost


def near(value: float | None) -> Any:
    return None if value is None else pytest.approx(value)


NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize("seed", range(3))
def test_rows(fake_run: Begin, seed: int) -> None:
    """FakeRun: 1.5 seconds of training and 0.5 of evaluation a task on two workers."""
    run, matrix = fake_run(*NAMES), scores(seed, 4)
    for index, line in enumerate(matrix):
        run.commit(line, parameters=100 + index)
    for done in range(1, 5):
        found = row(run.state, done)
        assert [found.aa, found.bwt, found.forgetting] == [near(value) for value in measures(matrix, done)]
        assert found.parameters == sum(100 + index for index in range(done))
        assert (found.tasks, found.train_s, found.evaluate_s, found.gpus) == (done, 1.5 * done, 0.5 * done, 0)


@pytest.mark.parametrize(("use_gpu", "share", "gpus"), [(True, 1, 2.0), (True, 2, 4.0), (False, 1, 0.0)])
def test_gpus_are_those_of_all_workers(fake_run: Begin, use_gpu: bool, share: float, gpus: float) -> None:
    """FakeRun trains on two workers."""
    run = fake_run("a", config=config_of(["a"], cluster={"use_gpu": use_gpu, "gpus_per_worker": share}))
    run.commit([0.9])
    assert row(run.state, 1).gpus == gpus


def test_the_test_split_decides_nothing(fake_run: Begin) -> None:
    run = fake_run("a", "b")
    run.commit([0.9, 0.1], [0.0, 0.0])
    run.commit([0.7, 0.5], [0.0, 0.0])
    assert row(run.state, 2).aa == pytest.approx(0.6) and row(run.state, 2).bwt == pytest.approx(-0.2)


def test_only_tasks_learned_so_far_need_scores(fake_run: Begin) -> None:
    """As a trial scores them: the first task alone, then two of four."""
    run = fake_run(*NAMES)
    run.commit([0.9])
    run.commit([0.7, 0.5])
    assert row(run.state, 1).aa == 0.9 and row(run.state, 2).aa == pytest.approx(0.6)


def forked(source: FakeRun, tasks: int) -> RunState:
    log = RunLog(Track(source.track.store, "default", "other"))
    log.take({}, 120, lambda _: None)
    take_over(log, Fork(source.track, tasks))
    return log.state


def test_tasks_taken_over_cost_nothing(fake_run: Begin) -> None:
    source, matrix = fake_run(*NAMES), scores(7, 4)
    for line in matrix:
        source.commit(line, parameters=50)
    whole = source.state
    begun = forked(source, 2)
    assert all(commit.forked_from for commit in begun.commits)
    found = row(begun, 2)
    assert (found.train_s, found.evaluate_s, found.tasks, found.parameters) == (0, 0, 2, 100)
    grown = replace(begun, commits=(*begun.commits, *whole.commits[2:]), tasks=whole.tasks)
    found = row(grown, 4)
    assert (found.train_s, found.evaluate_s, found.parameters) == (3.0, 1.0, 200)
    assert (found.aa, found.bwt) == (pytest.approx(measures(matrix, 4)[0]), pytest.approx(measures(matrix, 4)[1]))


# --- what is reported


class StandIn:
    """A controller of which `results` sees configuration and state."""

    def __init__(self, run: FakeRun) -> None:
        self.run, self.config = run, run.config

    @property
    def state(self) -> RunState:
        return self.run.state


def steps(run: FakeRun, upto: int, end: BaseException | None = None, *, committed: bool = False) -> Iterator[RunState]:
    """Trains up to `upto` tasks, then ends as Controller.steps does; `committed`: with one more task, by a guard."""
    yield run.state
    while len(run.state.commits) < upto:
        run.commit(MATRIX[len(run.state.commits)], parameters=10)
        yield run.state
    if committed:
        run.commit(MATRIX[len(run.state.commits)], parameters=10)
    if end:
        raise end


MATRIX = scores(3, 4)


def reported(run: FakeRun, *how: Any, **more: Any) -> list[dict[str, Any]]:
    controller: Any = StandIn(run)
    return [*results(controller, steps(run, *how, **more))]


def check_rows(found: Sequence[dict[str, Any]], tasks: Sequence[int]) -> None:
    assert [each["tasks"] for each in found] == [*tasks]
    for each in found:
        expected = [near(value) for value in measures(MATRIX, each["tasks"])]
        assert [each[key] for key in ("aa", "bwt", "forgetting")] == expected
        assert each["parameters"] == 10 * each["tasks"]
    assert [each.get("done", False) for each in found] == [False] * (len(found) - 1) + [True]


def test_a_whole_trial(fake_run: Begin) -> None:
    found = reported(fake_run(*NAMES), 4)
    check_rows(found, [1, 2, 3, 4])
    assert not any("stopped" in each or "cut" in each for each in found)


def test_a_trial_of_one_task(fake_run: Begin) -> None:
    found = reported(fake_run("a"), 1)
    check_rows(found, [1])


@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_a_trial_that_goes_on_reports_what_it_had(fake_run: Begin, before: int) -> None:
    run = fake_run(*NAMES)
    for line in MATRIX[:before]:
        run.commit(line, parameters=10)
    check_rows(reported(run, 4), [1, 2, 3, 4])


def test_rows_come_as_soon_as_they_are_there(fake_run: Begin) -> None:
    run = fake_run(*NAMES)
    for line in MATRIX[:2]:
        run.commit(line, parameters=10)
    controller: Any = StandIn(run)
    taken, under_way = [], results(controller, steps(run, 4))
    for found in under_way:
        taken.append((found["tasks"], len(run.state.commits)))
    assert taken == [(1, 2), (2, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_guard_ends_it(fake_run: Begin, before: int) -> None:
    """After the next task, which is committed and was not reported yet."""
    found = reported(fake_run(*NAMES), before, GuardStop("forgetting 0.3000 is above"), committed=True)
    check_rows(found, [*range(1, before + 2)])
    assert found[-1]["stopped"] == "forgetting 0.3000 is above" and "cut" not in found[-1]


def test_a_guard_that_quarantines_the_next_task_ends_it_with_its_figures(fake_run: Begin) -> None:
    run, other = fake_run(*NAMES), fake_run(*NAMES, name="other")
    for line in MATRIX[:3]:
        other.commit(line, parameters=10)

    def quarantine() -> Iterator[RunState]:
        yield from steps(run, 2)
        left_out = {"seq", "time", "lease"}
        run.append("quarantine", {**other.state.commits[2].model_dump(exclude=left_out), "identity": "i"})
        raise GuardStop("it is quarantined")

    controller: Any = StandIn(run)
    found = [*results(controller, quarantine())]
    check_rows(found, [1, 2, 3])
    assert found[-1]["stopped"] == "it is quarantined" and len(run.state.commits) == 2
    assert [each.get("quarantined") for each in found] == [None, None, True]


@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_sweep_that_leaves_cuts_it(fake_run: Begin, before: int) -> None:
    found = reported(fake_run(*NAMES), before, Interrupted("told to leave"))
    check_rows(found, [*range(1, before + 1), before])
    assert found[-1]["cut"] is True and "stopped" not in found[-1]


def test_one_that_was_cut_before_its_first_task_measured_nothing(fake_run: Begin) -> None:
    assert reported(fake_run(*NAMES), 0, Interrupted("told to leave")) == [{"tasks": 0, "done": True, "cut": True}]


def test_what_fails_is_raised(fake_run: Begin) -> None:
    run = fake_run(*NAMES)
    controller: Any = StandIn(run)
    found = results(controller, steps(run, 1, TrainingError("the loss is nan")))
    assert next(found)["tasks"] == 1
    with pytest.raises(TrainingError, match="the loss is nan"):
        next(found)


# --- how it begins, and on whose workers


def shared_of(store: Path, **more: Any) -> Any:
    job: Any = SimpleNamespace(tasks=("tokens",), base="base", folder="folder")
    config = sweep_of(run={"store": str(store)}, **more.pop("sweep", {}))
    return Shared(**{"config": config, "tasks": (), "pool": None, "job": job, "first_tasks": None, **more})


def test_a_trial_that_has_tasks_begins_as_nothing_else(fake_run: Begin, tmp_path: Path) -> None:
    shared = shared_of(tmp_path / "store", sweep={"start_from": "default/never@v1"})
    config = shared.config.trial(1, {})
    fake_run(*NAMES, name=config.name, config=config).commit([0.5])
    assert beginning(config, shared) is None


def test_a_trial_begins_as_the_stream_that_the_sweep_starts_from(fake_run: Begin, tmp_path: Path) -> None:
    source = fake_run("a", "b", "c", team="blue", name="grown")
    for _ in range(3):
        source.commit([0.5, 0.5, 0.5])
    for version in (1, 2, 3):
        shared = shared_of(tmp_path / "store", sweep={"start_from": f"blue/grown@v{version}"})
        found = beginning(shared.config.trial(1, {}), shared)
        assert found and (found.source.label, found.tasks) == ("blue/grown", version)
        assert found == replace(plan_fork(source.track, version + 1), source=found.source)


@pytest.mark.parametrize("reference", ["blue/grown@v9", "blue/gone@v1", "blue/grown@production", "blue/grown"])
def test_a_stream_that_is_not_there(fake_run: Begin, tmp_path: Path, reference: str) -> None:
    fake_run("a", team="blue", name="grown").commit([0.5])
    shared = shared_of(tmp_path / "store")
    with pytest.raises(ConfigError, match=reference.partition("@")[0].rpartition("/")[2]):
        fork_of(reference, shared.config.trial(1, {}))


@pytest.mark.parametrize("owner", ["s-00001", "s-00002"])
def test_a_trial_begins_as_another_ones_first_task(
    fake_run: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    source = fake_run(*NAMES, name="s-00001")
    for line in MATRIX[:2]:
        source.commit(line)
    asked = []

    def claim(key: str, run: str) -> str:
        asked.append((key, run))
        return owner

    monkeypatch.setattr(ray, "get", lambda value: value)
    shared = shared_of(tmp_path / "store", first_tasks=SimpleNamespace(claim=SimpleNamespace(remote=claim)))
    config = shared.config.trial(2, {"adapter.threshold": 0.3})
    found = beginning(config, shared)
    assert asked == [(first_task_key(config), "s-00002")]
    if owner == "s-00002":
        assert found is None
    else:
        assert found and (found.source.label, found.tasks) == ("default/s-00001", 1)


@pytest.mark.parametrize("index", [0, 3])
def test_trials_are_scored_on_what_they_have_learned(tmp_path: Path, index: int) -> None:
    asked = PoolWorkers(shared_of(tmp_path)).scored(index)
    assert asked == {"zero_shot": False, "validation": range(index + 1), "test": ()}


def test_the_pool_serves_the_trial(tmp_path: Path) -> None:
    """The trial's own job, but what the workers hold is as in theirs."""
    given: list[Any] = []

    def train(order: Order, on_event: Any, check: Any) -> str:
        given.extend([order, on_event, check])
        return "done"

    described = [TaskDescription(name="a", fingerprint="f")]
    shared = shared_of(tmp_path, tasks=described, pool=SimpleNamespace(train=train))
    workers, config = PoolWorkers(shared), shared.config.trial(4, {"adapter.threshold": 0.3})
    assert workers.describe() == described and workers.describe() is not described
    with workers.session() as check:
        check()
    job = Job("default/s-00004", config.model, config.adapter, config.train, config.deepspeed, config.store, ())
    order: Any = Order(1, 1, "r", (), (), "c", {}, False, (0, 1), ())
    with workers.group(job, config.cluster, check) as group:
        assert group.cluster == config.cluster and group.train(order, print) == "done"  # type: ignore[comparison-overlap]
    assert given[0] == replace(order, job=replace(job, tasks=("tokens",), base="base", folder="folder"))
    assert given[0].job.adapter.threshold == 0.3 and given[1:] == [print, check]


def test_one_actor_serves_trial_after_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray: the trainable's own methods, as Tune calls them. A stopped trial hears why in its own run."""
    thrown: list[tuple[str, str]] = []
    runs = {
        n: FakeRun(tmp_path / str(n) / "store", NAMES, team="default", name=f"s-{n:05d}", config=None) for n in (1, 2)
    }

    class Fake(StandIn):
        def __init__(self, config: RunConfig, reporter: Any, fork: Any, workers: PoolWorkers) -> None:
            super().__init__(runs[int(config.name[-5:])])
            self.config, self.fork = config, fork
            assert fork == f"fork of {config.name}" and isinstance(workers, PoolWorkers)

        def steps(self) -> Generator[RunState]:
            try:
                yield from steps(self.run, 4)
            except GuardStop as error:
                thrown.append((self.config.name, str(error)))
                raise

    monkeypatch.setattr(trial_module, "Controller", Fake)
    monkeypatch.setattr(trial_module, "beginning", lambda config, shared: f"fork of {config.name}")
    shared = shared_of(tmp_path / "store")
    actor = StreamTrial.__new__(StreamTrial)
    actor.setup({"number": 1, "values": {"adapter.threshold": 0.3}}, shared)
    assert actor.trial == shared.config.trial(1, {"adapter.threshold": 0.3})
    check = [actor.step(), actor.step()]
    assert [each["tasks"] for each in check] == [1, 2] and len(runs[1].state.commits) == 2
    assert actor.reset_config({"number": 2, "values": {"adapter.threshold": 0.4}})
    assert [name for name, _ in thrown] == ["s-00001"] and "stopped by the sweep s" in thrown[0][1]
    assert actor.trial == shared.config.trial(2, {"adapter.threshold": 0.4})
    assert [actor.step()["tasks"] for _ in range(4)] == [1, 2, 3, 4]
    actor.cleanup()
    actor.cleanup()
    assert [name for name, _ in thrown] == ["s-00001"]  # the second one had ended


def test_a_trial_never_begun_is_left_without_a_word(tmp_path: Path) -> None:
    actor = StreamTrial.__new__(StreamTrial)
    actor.setup({"number": 1, "values": {}}, shared_of(tmp_path))
    actor.cleanup()
    assert actor.steps is None


def test_the_table_of_other_values_is_whole() -> None:
    tables = [({}, OTHERS), *((of_method(method), others) for method, others in OF_METHODS.items())]
    for sections, others in tables:
        own = RunConfig.model_validate(run_content(**sections))
        for path, value in others.items():
            assert reduce(getattr, path.split("."), own) != value
        assert {path for path in others if path.startswith("adapter.")} == {*own_keys(own)}
    every = {path for _, others in tables for path in others}
    assert every == {path for path in key_paths(RunConfig) if searchable(path)}
