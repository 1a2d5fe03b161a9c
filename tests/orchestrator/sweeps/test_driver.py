"""The driver without Ray: what is left to do, what is refused, what its log says; and what Tune's reports come to."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError, Interrupted, StoreError, TrainingError
from cluster.processes import start_time
from cluster.storage import LocalStore
from orchestrator.console.sweep import print_sweep
from orchestrator.run.controller import Controller
from orchestrator.run.driver_log import DriverLog
from orchestrator.run.driver_process import this_process
from orchestrator.sweeps import driver
from orchestrator.sweeps.driver import Sweep
from orchestrator.sweeps.events import Outcome, Point
from orchestrator.sweeps.results import PICTURE, RECOMMENDED, TRIALS
from orchestrator.sweeps.sweep_state import SweepState, sweep_log
from orchestrator.track.events import Start, TaskDescription
from tests.orchestrator.conftest import FakeRun
from tests.support.begun_sweeps import DATA, TRIALS_DONE, begun, ops, silent
from tests.support.entries import Raw
from tests.support.fake_workers import FakeWorkers, Told, without_ray
from tests.support.sweeps import in_store, row, trial
from tests.support.token_cases import CASES, TokenCase, made
from trainers.identity import settings_of
from trainers.models.loading import resolve_name

Begin = Callable[..., FakeRun]


# --- what is left to do


@pytest.mark.parametrize(
    ("budgets", "running", "state", "complete"),
    [
        (({"trials": 4}, {"trials": 4}), False, "finished", True),
        (({"trials": 4}, {"trials": 4}), True, "finished", False),  # the time was up, or a trial was cut
        (({"trials": 4}, {"trials": 9}), False, "finished", False),
        (({"trials": 9}, {"trials": 4}), False, "finished", True),
        (({"trials": 9}, {"trials": 9}), False, "finished", True),  # a grid that was through
        (({"hours": 1}, {"hours": 1}), False, "finished", True),
        (({"hours": 1}, {"hours": 2}), False, "finished", False),
        (({"hours": 1}, {"hours": 1, "trials": 3}), False, "finished", True),
        (({"hours": 1}, {"hours": 1, "trials": 5}), False, "finished", False),
        (({"gpu_hours": 1}, {"gpu_hours": 1}), True, "finished", True),  # 3600 s of one GPU are spent
        (({"gpu_hours": 1}, {"gpu_hours": 2}), True, "finished", False),
        (({"gpu_hours": 2}, {"gpu_hours": 1}), True, "finished", True),
        (({"trials": 4}, {"trials": 4}), False, "interrupted", False),
        (({"trials": 4}, {"trials": 4}), False, "failed", False),
        (({"gpu_hours": 1}, {"gpu_hours": 1}), False, "interrupted", False),
    ],
)
def test_complete(store: str, budgets: tuple[Any, Any], running: bool, state: str, complete: bool) -> None:
    """`budgets`: as the sweep ended, and now."""
    before, now = budgets
    cluster = {"use_gpu": True, "num_workers": 1}
    whole = [trial(1, [row(4, 0.9, train_s=3000, evaluate_s=600)]), *TRIALS_DONE[1:3], trial(4, (), "running")]
    if not running:
        whole[3] = trial(4, (), "failed")
    op = {"finished": "finish", "interrupted": "interrupt", "failed": "fail"}[state]
    begun(in_store(store, run={"cluster": cluster}, budget=before), whole, op, "so")
    sweep = Sweep(in_store(store, run={"cluster": cluster}, budget=now), silent)
    assert sweep.state.status == state and sweep._complete() == complete


def test_nothing_begun_is_not_complete(store: str) -> None:
    assert not Sweep(in_store(store), silent)._complete()


def test_a_finished_sweep_says_so_and_does_nothing(store: str, untrained: list[Any]) -> None:
    config = in_store(store, budget={"trials": 4})
    begun(config, TRIALS_DONE)
    before = ops(config)
    state = Sweep(config, silent).run()
    assert state.status == "finished" and [each.number for each in state.trials] == [1, 2, 3, 4]
    assert ops(config) == before and len(untrained) == 1


# --- what is refused


def test_a_missing_mlflow_is_noticed_before_anything(store: str, untrained: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    config = in_store(store, tracking={"mlflow": "http://host"})
    with pytest.raises(ConfigError, match=r"pip install 'orthoplex\[mlflow\]'"):
        Sweep(config, silent).run()
    assert ops(config) == [] and len(untrained) == 1


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("rank-pattern-no-match", "labels of one case")]
)
def test_what_plan_refuses_a_sweep_does_too(case: TokenCase, tmp_path: Path) -> None:
    run = made(case, tmp_path)
    sections = {key: getattr(run, key).model_dump(mode="json") for key in ("model", "adapter")}
    task = run.tasks[0].model_dump(mode="json", exclude_none=True)
    sections["tasks"] = [task, {**task, "name": "u"}]
    sweep = Sweep(in_store(run.store, run=sections), silent)
    with pytest.raises(ConfigError, match=case.said):
        sweep._load()


def test_a_changed_configuration_is_refused(store: str, untrained: list[Any]) -> None:
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")
    before = ops(config)
    other = in_store(store, run={"train": {"epochs": 9}}, search={"seed": 5})
    with pytest.raises(ConfigError) as caught:
        Sweep(other, silent).run()
    said = str(caught.value)
    assert "the sweep 's' was begun otherwise" in said and "another `name`" in said
    assert "run.train.epochs: was 3, is now 9" in said and "search.seed: was 0, is now 5" in said
    assert ops(config) == before and len(untrained) == 1


def test_what_may_change_is_taken(store: str, untrained: list[Any]) -> None:
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")
    other = in_store(store, budget={"trials": 20}, concurrent=3, choice={"within": 0.5})
    state = Sweep(other, silent).run()
    assert state.status == "finished" and state.config == other.model_dump(mode="json")
    assert untrained[1:] == [(["library", "section"], DATA)]


def test_changed_data_are_refused_and_that_is_logged(store: str, untrained: list[Any], monkeypatch: Any) -> None:
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")
    changed = [TaskDescription(name=name, fingerprint="new") for name in ("library", "section")]
    monkeypatch.setattr(driver, "describe_tasks", lambda *_: changed)
    with pytest.raises(ConfigError, match="task 'library': its rows differ"):
        Sweep(config, silent).run()
    assert "open" not in ops(config)[-3:] and ops(config)[-1] == "fail" and len(untrained) == 1


def test_a_sweep_over_tasks_that_are_judged_by_their_loss_says_what_it_reads(
    store: str, untrained: list[Any], tmp_path: Path
) -> None:
    task = {"name": "a", "source": "files", "format": "text", "train": "a.jsonl", "test": "b.jsonl"}
    config = in_store(store, run={"tasks": [task], "model": {"name": "docs-lm", "task_type": "CAUSAL_LM"}})
    said: list[str] = []
    Sweep(config, said.append).run()
    assert said[0] == f"note: {driver.BY_LOSS}" and "exp(-nll)" in said[0] and len(untrained) == 2


def test_another_base_than_that_of_its_trials_is_refused(
    store: str, untrained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials on two bases could not be compared."""
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")
    without_ray(monkeypatch)
    run = config.trial(2, {})
    then = {**settings_of(resolve_name(run.model.name), None), "layer_norm_eps": 0.5}
    Controller(run, Told(), workers=FakeWorkers(run, base_config=then)).run()
    with pytest.raises(ConfigError, match=r"model\.name: in its config\.json layer_norm_eps is 1e-12, not 0\.5"):
        Sweep(config, silent).run()
    assert ops(config)[-1] == "fail" and len(untrained) == 1


def test_another_driver_at_work_is_left_alone(store: str, untrained: list[Any]) -> None:
    config = in_store(store)
    with subprocess.Popen(["sleep", "60"]) as other:
        process = this_process().model_copy(update={"pid": other.pid, "started": start_time(other.pid)})
        sweep_log(LocalStore(store), "default", "s").append(Start(driver=process, lease_s=600), after=None)
        with pytest.raises(ConflictError, match=rf"pid {other.pid}, .* is at work on this sweep"):
            Sweep(config, silent).run()
        other.kill()
    assert ops(config) == ["start"] and len(untrained) == 1


def test_what_a_newer_version_wrote_is_noted_and_not_built_on(store: str, untrained: list[Any], capsys: Any) -> None:
    config = in_store(store, budget={"trials": 4})
    begun(config, TRIALS_DONE)
    log = sweep_log(LocalStore(store), "default", "s")
    entry = log.append(Raw("later", {"anything": 1}), after=log.head())
    state = Sweep(config, silent).state
    assert state.skipped == (entry,) and state.status == "finished"
    print_sweep(config, state, Path("out"))
    assert f"note: entry {entry.seq} (later) was written by a newer Orthoplex" in capsys.readouterr().out
    assert Sweep(config, silent).run() == state  # nothing is left to do, and nothing is written
    with pytest.raises(StoreError, match=rf"default/s: entry {entry.seq} \(later\) was written by a newer.*upgrade"):
        Sweep(in_store(store, budget={"trials": 9}), silent).run()
    assert ops(config)[-1] == "later" and len(untrained) == 1


# --- what is logged


def test_the_first_start(store: str, untrained: list[Any]) -> None:
    config = in_store(store)

    def train(log: DriverLog[SweepState]) -> str:
        log.append(Point(number=1, values={"adapter.threshold": 0.5}, run="s-00001"))
        log.append(Outcome(number=1, status="finished", reason=None, rows=(row(4, 0.9),)))
        return "the time is up"

    untrained[0].act = staticmethod(train)
    state = Sweep(config, silent).run()
    assert ops(config) == ["start", "pool", "open", "trial", "outcome", "choice", "finish"]
    assert (state.status, state.reason, state.tasks) == ("finished", "the time is up", tuple(DATA))
    assert state.choice and (state.choice.pareto, state.choice.recommended) == ((1,), 1)
    assert {each.path for each in state.choice.files} == {RECOMMENDED, PICTURE, TRIALS}


@pytest.mark.parametrize(
    ("error", "op"),
    [
        (Interrupted("told to leave"), "interrupt"), (KeyboardInterrupt(), "interrupt"),
        (TrainingError("the loss is nan"), "fail"), (ValueError("bug"), "fail"),
    ],
)  # fmt: skip
def test_how_it_ends_badly(store: str, untrained: list[Any], error: BaseException, op: str) -> None:
    """The result as it stands is there all the same."""
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")

    def train(_: Any) -> None:
        raise error

    untrained[0].act = staticmethod(train)
    sweep = Sweep(config, silent)
    with pytest.raises(type(error)):
        sweep.run()
    assert ops(config)[-2:] == ["choice", op] and sweep.state.choice
    assert sweep.state.choice.recommended == 1  # its AA is the best by more than half a point
    assert isinstance(error, KeyboardInterrupt) or str(error) in str(sweep.state.reason)


def test_a_choice_is_logged_where_it_is_new(store: str, untrained: list[Any]) -> None:
    """Two starts which find the same trials have one choice."""
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")
    Sweep(config, silent).run()
    begun_again = in_store(store, budget={"trials": 30})
    Sweep(begun_again, silent).run()
    assert ops(config).count("choice") == 1


def test_another_rule_makes_another_choice_once(store: str, untrained: list[Any]) -> None:
    """Without training anything. After that the sweep is what it is."""
    config = in_store(store, budget={"trials": 4}, choice={"within": 0.2})
    begun(config, TRIALS_DONE)
    other = in_store(store, budget={"trials": 4}, choice={"rule": "best_accuracy"})
    state = Sweep(other, silent).run()
    assert state.choice and state.choice.recommended == 1 and state.status == "finished"
    assert len(untrained) == 1
    before = ops(config)
    Sweep(other, silent).run()
    assert ops(config) == before


def test_another_choice_keeps_the_reason_of_the_end(store: str, untrained: list[Any]) -> None:
    begun(in_store(store, budget={"trials": 4}), TRIALS_DONE, reason="2.00 GPU-hours are spent (budget.gpu_hours 2)")
    state = Sweep(in_store(store, budget={"trials": 4}, choice={"within": 0.5}), silent).run()
    assert state.reason == "2.00 GPU-hours are spent (budget.gpu_hours 2)"


def test_a_local_store_holds_it_all(store: str, untrained: list[Any]) -> None:
    """Nothing of a sweep is kept anywhere else: its folder, moved, is the sweep."""
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")
    Sweep(config, silent).run()
    Path(store).rename(f"{store}-moved")
    moved = config.model_copy(update={"run": config.run.model_copy(update={"store": f"{store}-moved"})})
    state = Sweep(moved, silent).state
    assert state.choice and LocalStore(f"{store}-moved").get(f"{state.choice.prefix}/{TRIALS}")
