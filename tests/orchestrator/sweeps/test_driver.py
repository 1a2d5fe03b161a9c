"""The driver without Ray: what is left to do, what is refused, what its log says; and what Tune's reports come to."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster.errors import ConfigError, ConflictError, Interrupted, StoreError, TrainingError
from cluster.processes import start_time
from cluster.storage import LocalStore, open_store
from orchestrator.cli import main as cli
from orchestrator.console.sweep import print_sweep
from orchestrator.log.entry import Entry
from orchestrator.run.driver_log import DriverLog
from orchestrator.run.lease import this_process
from orchestrator.sweeps import driver, results
from orchestrator.sweeps.config import SweepConfig, parse_sweep
from orchestrator.sweeps.driver import Sweep
from orchestrator.sweeps.events import KNOWN, Outcome, Point
from orchestrator.sweeps.results import PICTURE, RECOMMENDED, TRIALS
from orchestrator.sweeps.sweep_state import SweepState, SweepTrial, replay_sweep, sweep_log
from orchestrator.track.events import ENDINGS, Open, Start, TaskDescription
from tests.orchestrator.conftest import FakeRun
from tests.support.entries import Raw
from tests.support.sweeps import content_of, finished, row, sweep_of, trial

Begin = Callable[..., FakeRun]
DATA = [TaskDescription(name=name, fingerprint=name * 8) for name in ("library", "section")]


def silent(_: str) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def in_store(store: str, **sections: Any) -> SweepConfig:
    return sweep_of(run={"store": store, **sections.pop("run", {})}, **sections)


def taken(config: SweepConfig) -> DriverLog[SweepState]:
    log = DriverLog(sweep_log(open_store(config.run.store), config.run.team, config.name), replay_sweep, "sweep", KNOWN)
    log.take({}, 120, silent)
    return log


def begun(
    config: SweepConfig, trials: Sequence[SweepTrial] = (), op: str = "finish", reason: str | None = None
) -> None:
    """A sweep whose driver has left; trials are as given."""
    log = taken(config)
    log.append(Open(config=config.model_dump(mode="json"), tasks=tuple(DATA)))
    for each in trials:
        log.append(Point(number=each.number, values=dict(each.values), run=each.run))
        if each.status != "running":
            log.append(Outcome(number=each.number, status=each.status, reason=each.reason, rows=each.rows))
    log.append({kind.op: kind for kind in ENDINGS}[op](reason=reason))


def entries(config: SweepConfig) -> list[Entry]:
    return sweep_log(open_store(config.run.store), config.run.team, config.name).entries()


def ops(config: SweepConfig) -> list[str]:
    return [entry.op for entry in entries(config)]


TRIALS_DONE = (finished(1, 0.9, 400), finished(2, 0.8, 100), trial(3, [row(1, 0.2)], "stopped"), trial(4, (), "failed"))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for data, Tuning and pictures; what it was asked to train."""
    asked: list[Any] = []

    class Fake:
        def __init__(self, config: SweepConfig, log: DriverLog[SweepState], say: Any) -> None:
            self.log = log

        def run(self, started: Any, data: list[Any]) -> str | None:
            asked.append((data, [driver.describe_data(task) for task in data]))
            return act(self.log) if (act := getattr(Fake, "act", None)) else None

    monkeypatch.setattr(results, "picture", lambda trials, choice: b"drawn in test_results")

    @contextmanager
    def session(config: SweepConfig, say: Any) -> Iterator[Any]:
        yield SimpleNamespace(config=config, at_once=1)  # the real one: tests/e2e

    monkeypatch.setattr(driver, "session", session)
    monkeypatch.setattr("orchestrator.sweeps.tuning.Tuning", Fake)
    monkeypatch.setattr("trainers.methods.registry.check_method", lambda *_: None)
    monkeypatch.setattr(driver, "load_tasks", lambda config, say: ["library", "section"])
    monkeypatch.setattr(driver, "describe_data", lambda name: TaskDescription(name=name, fingerprint=name * 8))
    asked.append(Fake)
    return asked


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
    monkeypatch.setattr(driver, "describe_data", lambda name: TaskDescription(name=name, fingerprint="new"))
    with pytest.raises(ConfigError, match="task 'library': its rows differ"):
        Sweep(config, silent).run()
    assert "open" not in ops(config)[-3:] and ops(config)[-1] == "fail" and len(untrained) == 1


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


# --- the command line


@pytest.fixture
def orthoplex(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str) -> Any:
    """Runs `orthoplex sweep s.yaml …` in an empty folder: exit code, standard output, standard error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "120")
    content = content_of(run={"store": store}, budget={"trials": 4})
    Path("s.yaml").write_text(yaml.safe_dump(content))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orthoplex", "sweep", "s.yaml", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return code, captured.out, captured.err

    return call


def as_written() -> SweepConfig:
    return parse_sweep(yaml.safe_load(Path("s.yaml").read_text()), "")


def test_show_without_a_sweep(orthoplex: Any) -> None:
    code, out, err = orthoplex("--show")
    assert code == 2 and out == "" and "no sweep default/s" in err and "without --show" in err


def test_show_before_there_is_a_choice(orthoplex: Any) -> None:
    config = as_written()
    begun(config, [trial(1, [row(1, 0.5)], "stopped"), trial(2, (), "running")], "interrupt", "interrupted by SIGINT")
    before = ops(config)
    code, out, _ = orthoplex("--show", "--json")
    found = json.loads(out)
    assert code == 0 and (found["state"], found["recommended"], found["picture"]) == ("interrupted", None, None)
    assert [each["status"] for each in found["trials"]] == ["stopped", "stopped"]
    code, out, _ = orthoplex("--show")
    assert code == 0 and "default/s: interrupted" in out and "interrupted by SIGINT" in out
    assert ops(config) == before


def test_show(orthoplex: Any, untrained: list[Any]) -> None:
    config = as_written()
    begun(config, TRIALS_DONE, "interrupt")
    Sweep(config, silent).run()
    before = ops(config)
    code, out, _ = orthoplex("--show")
    assert code == 0 and ops(config) == before
    folder = Path(".orthoplex/sweeps/default/s")
    assert {path.name for path in folder.iterdir()} == {RECOMMENDED, PICTURE, TRIALS}
    for part in ("2 finished, 1 stopped, 1 failed", "1 *", "2 *", "90.0", "80.0", "1/4", "trial 4 failed: the loss is",
                 "recommended: trial 1", f"orthoplex run {folder}/{RECOMMENDED}", "--set name=s-00001"):  # fmt: skip
        assert part in out, part
    code, out, _ = orthoplex("--show", "--json", "--output", "elsewhere")
    found = json.loads(out)
    assert code == 0 and (found["pareto"], found["recommended"]) == ([2, 1], 1)
    assert found["recommended_config"] == f"elsewhere/{RECOMMENDED}" and Path(found["picture"]).exists()


def test_a_finished_sweep_is_shown_and_not_trained(orthoplex: Any, untrained: list[Any]) -> None:
    begun(as_written(), TRIALS_DONE, "interrupt")
    Sweep(as_written(), silent).run()
    before = ops(as_written())
    code, out, _ = orthoplex()
    assert code == 0 and "recommended: trial 1" in out and ops(as_written()) == before


def test_nothing_to_recommend(orthoplex: Any, untrained: list[Any]) -> None:
    begun(as_written(), [finished(1, 0.9, 400, -0.5)], "interrupt")
    code, out, err = orthoplex("--set", "choice.min_bwt=-0.1")
    assert code == 3 and "default/s: finished" in out
    assert "no trial can be recommended: none of 1 finished trials has BWT ≥ -0.1" in err


def test_an_interrupt_leaves_a_result_and_says_how_to_go_on(orthoplex: Any, untrained: list[Any]) -> None:
    begun(as_written(), TRIALS_DONE, "interrupt")

    def train(_: Any) -> None:
        raise Interrupted("told to leave")

    untrained[0].act = staticmethod(train)
    code, out, err = orthoplex("--set", "budget.trials=9")
    assert code == 130 and "recommended: trial 1" in out
    assert "orthoplex sweep s.yaml --set budget.trials=9" in err


def test_a_changed_file_is_refused(orthoplex: Any, untrained: list[Any]) -> None:
    begun(as_written(), TRIALS_DONE, "interrupt")
    content = copy.deepcopy(yaml.safe_load(Path("s.yaml").read_text()))
    content["run"]["train"] = {"epochs": 1}
    Path("s.yaml").write_text(yaml.safe_dump(content))
    code, out, err = orthoplex()
    assert code == 2 and out == "" and "run.train.epochs: was 3, is now 1" in err


def test_a_local_store_holds_it_all(store: str, untrained: list[Any]) -> None:
    """Nothing of a sweep is kept anywhere else: its folder, moved, is the sweep."""
    config = in_store(store)
    begun(config, TRIALS_DONE, "interrupt")
    Sweep(config, silent).run()
    Path(store).rename(f"{store}-moved")
    moved = config.model_copy(update={"run": config.run.model_copy(update={"store": f"{store}-moved"})})
    state = Sweep(moved, silent).state
    assert state.choice and LocalStore(f"{store}-moved").get(f"{state.choice.prefix}/{TRIALS}")
