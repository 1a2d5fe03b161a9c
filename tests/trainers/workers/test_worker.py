"""Two real processes that serve several jobs in turn leave the same bits as fresh ones."""

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import GuardStop
from orchestrator.config.run import RunConfig
from orchestrator.registry.quarantine import discard
from orchestrator.run.controller import Controller
from orchestrator.track.events import Committed
from orchestrator.track.view import status_view
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray
from tests.support.jobs_pair import TASKS
from tests.support.launching import launch
from trainers.messages import Order, TaskDone
from trainers.methods.oa.artifact import parse
from trainers.methods.oa.history import fold
from trainers.methods.oa.rounding import Change
from trainers.methods.targets import dense
from trainers.models.loading import load_backbone
from trainers.training import stage
from trainers.training.engine import build_engine
from trainers.workers.scoring import Scoring
from trainers.workers.worker import Worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("jobs")
    launch(folder, 2, "tests.support.jobs_pair")
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_job_taken_after_others_is_bit_equal_with_a_fresh_one(results: dict[str, Any], stage: str) -> None:
    """Adapters and bases of two tasks: jobs taken in turn, after a task that nobody committed and one that diverged,
    with base and tokens from the object store, under folded and concatenated histories."""
    found = results[stage]
    assert {name: found["served"][name] for name in found["fresh"]} == found["fresh"]
    assert [len(digests) for digests in found["served"].values()] == [2, 2]
    assert found["fresh"]["plain"][0] != found["served"]["other"][0]
    assert "is not finite" in found["diverged"] or "the loss is" in found["diverged"]
    assert found["base"]


@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_job_for_other_workers_is_refused(results: dict[str, Any], stage: str) -> None:
    assert results[stage]["unfit"].startswith("deepspeed.zero_stage: 1, but these workers were started with")


@pytest.mark.parametrize("stage", ["2", "3"])
def test_an_order_of_the_same_job_reads_nothing_again(results: dict[str, Any], stage: str) -> None:
    """Nothing is fetched if all ranks hold what was committed; both tasks are if rank 1 alone holds another."""
    assert results[stage]["held"] == [0, 2]


@dataclass
class OneWorker(FakeWorkers):
    """Trains two small tasks with one real worker, in this process."""

    worker: Worker | None = None

    def train(self, order: Order, on_event: Callable[[Any], None]) -> TaskDone:
        on_event(None)
        self.orders.append(order)
        if self.worker is None:
            self.worker = Worker(replace(self.jobs[-1], tasks=TASKS), torch.device("cpu"), lambda _: None)
        self.worker.catch_up(order)
        return self.worker.run(order)


@pytest.fixture
def as_a_rank(one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only rank, without Ray."""
    without_ray(monkeypatch)
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}.items():
        monkeypatch.setenv(key, value)  # which DeepSpeed reads


def test_nothing_of_an_engine_is_left_after_its_task(
    as_a_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines are in cycles, and Python's own collections become rare as a process holds more."""
    optimizers: list[weakref.ref[Any]] = []
    left: list[int] = []

    def build(*given: Any) -> Any:
        engine = build_engine(*given)
        optimizers.append(weakref.ref(engine.optimizer))
        return engine

    def scores(*_: Any) -> list[Any]:
        left.append(sum(each() is not None for each in optimizers))
        return []

    monkeypatch.setattr(stage, "build_engine", build)
    monkeypatch.setattr(Scoring, "scores", scores)
    config = run_config(
        tmp_path / "store", ["first", "second"],
        model={"name": "docs-lm", "task_type": "CAUSAL_LM", "max_length": 16},
        adapter={"target_modules": ["model.layers.0.self_attn.o_proj"], "max_rank": 2},
        train={"max_steps": 2, "batch_size": 4}, evaluate={"tasks": "seen"},
    )  # fmt: skip
    gc.disable()
    try:
        Controller(config, Told(), workers=OneWorker(config)).run()
    finally:
        gc.enable()
    assert len(optimizers) == 2 and left == [0] * 4


def run_alone(store: Path, rounding: str) -> tuple[Controller, list[str]]:
    """A run over a bfloat16 base with a rate at which weights change by less than their steps; what was said of it. Its
    second task is trained by a second worker, which has the first from the store."""
    layers = [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)]
    config = run_config(
        store, ["first", "second"],
        model={"name": "docs-lm", "task_type": "CAUSAL_LM", "max_length": 16, "dtype": "bfloat16"},
        adapter={"target_modules": layers, "max_rank": 2, "rounding": rounding},
        train={"epochs": 1, "batch_size": 12, "learning_rate": 2e-5, "warmup_steps": 0},
        deepspeed={"zero_stage": 0},
    )  # fmt: skip
    told = Told()

    class Two(OneWorker):
        def train(self, order: Order, on_event: Callable[[Any], None]) -> TaskDone:
            self.worker = None
            return super().train(order, on_event)

    controller = Controller(config, told, workers=Two(config))
    controller.run()
    return controller, [line for line in told.lines if line.startswith("warning: the bfloat16 weights")]


def share_in_float64(controller: Controller, commits: list[Committed]) -> tuple[float, dict[str, float]]:
    """⟨W_stored − W0, ΔW⟩ / ‖ΔW‖² over the layers and per layer, from the files of the store and the base alone."""
    tasks = [
        parse(*controller.track.committed(commit, "adapter.safetensors", "bases.safetensors")) for commit in commits
    ]
    model, found = load_backbone(controller.config.model).model, {}
    for name in controller.config.adapter.target_modules:
        w0, _ = dense(model.get_submodule(name))
        exact, _ = fold(w0, None, [task.modules[name] for task in tasks])
        asked, held = exact.double() - w0.double(), exact.bfloat16().double() - w0.double()
        found[name] = Change(float((held * asked).sum()), float(asked.square().sum()))
    return sum(found.values(), Change()).share, {name: change.share for name, change in found.items()}


def test_what_a_bfloat16_base_keeps_reaches_log_manifest_status_and_warning(as_a_rank: None, tmp_path: Path) -> None:
    """From the weights that a real worker wrote to all that people and programs read, per commit and cumulated."""
    controller, warned = run_alone(tmp_path / "nearest", "nearest")
    commits = [*controller.state.commits]
    for number, commit in enumerate(commits, start=1):
        overall, modules = share_in_float64(controller, commits[:number])
        assert commit.kept is not None and commit.kept.overall == pytest.approx(overall, rel=1e-3)
        assert commit.kept.modules == pytest.approx(modules, rel=1e-3)
        manifest = controller.track.manifest_of(commit)
        assert manifest["kept"] == commit.kept.body()
    size = sum(each.numel() for each in load_backbone(controller.config.model).model.parameters())
    costs = [commit.cost for commit in commits if commit.cost]
    assert len(costs) == 2 and {cost.base_parameters for cost in costs} == {size}
    assert all(cost.tokens and cost.trained_parameters for cost in costs)
    assert commits[-1].kept.overall < 0.9 and len(warned) == 2  # type: ignore[union-attr]
    assert f"hold {commits[-1].kept.overall:.0%} of the change" in warned[-1]  # type: ignore[union-attr]
    view = status_view(controller.state)
    assert [task["kept"] for task in view["tasks"]] == [commit.kept.body() for commit in commits]  # type: ignore
    decisions = [each for each in view["decisions"] if each["rule"] == "adapter.rounding"]  # type: ignore
    assert [each["verdict"] for each in decisions] == ["warn"] * 2

    controller, warned = run_alone(tmp_path / "none", "none")
    assert [commit.kept for commit in controller.state.commits] == [None, None] and warned == []
    assert all("kept" not in controller.track.manifest_of(commit) for commit in controller.state.commits)


def small(store: Path, **guards: float) -> RunConfig:
    """Two small tasks, whose adapters are kept out of each other."""
    bases = {"side": "both", "energy": 0.6}
    adapter = {
        "target_modules": ["encoder.layer.0.output.dense"], "max_rank": 4, "threshold": 0.05, "orthogonality": bases
    }  # fmt: skip
    return run_config(
        store, ["first", "second"], model={"name": "minilm", "max_length": 16}, adapter=adapter, guards=guards,
        train={"max_steps": 3, "batch_size": 8, "learning_rate": 5e-3, "warmup_steps": 1},
        cluster={"num_workers": 1}, deepspeed={"zero_stage": 0},
    )  # fmt: skip


def kept_files(controller: Controller) -> list[tuple[bytes, ...]]:
    """Adapter and bases of every committed task."""
    names = controller.config.adapter.files
    return [controller.track.committed(commit, *names) for commit in controller.state.commits]


def test_a_quarantined_task_is_judged_folded_and_leaves_nothing_in_the_worker(as_a_rank: None, tmp_path: Path) -> None:
    """One worker: the second task is quarantined, given up, trained anew, quarantined again and committed:
    adapters, bases and scores are those of a run that went through, to the bit."""
    plain, free = OneWorker(small(tmp_path / "a")), small(tmp_path / "a")
    through = Controller(free, Told(), workers=plain)
    through.run()
    parameters = through.state.commits[0].active_parameters
    assert parameters and through.state.active_parameters
    bound = small(tmp_path / "b", max_active_parameters=parameters)
    worker: Worker | None = None
    for again in range(2):
        workers = OneWorker(bound, worker=worker)
        controller = Controller(bound, Told(), workers=workers)
        with pytest.raises(GuardStop, match="v2, second, is quarantined"):
            controller.run()
        worker = workers.worker
        assert worker and len(worker.held) == 2 and [order.index for order in workers.orders] == ([0, 1], [1])[again]
        held = controller.state.quarantined
        assert held and held.validation == through.state.commits[1].validation  # scored as it is folded
        if not again:
            assert discard(controller.track) == held.prefix
    loose = small(tmp_path / "b")
    last = OneWorker(loose, worker=worker)
    controller = Controller(loose, Told(), workers=last)
    assert controller.run().learned == 2 and last.orders == []
    assert kept_files(controller) == kept_files(through)
    assert controller.state.commits[1].test == through.state.commits[1].test
