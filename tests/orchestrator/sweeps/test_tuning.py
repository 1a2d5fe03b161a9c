"""What Tune's reports come to in the sweep's log, without Ray: rows, ends and their reasons, and when to leave."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.errors import ConflictError, Interrupted
from cluster.storage import open_store
from orchestrator.log.decision import Decision
from orchestrator.run.driver_log import DriverLog
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import KNOWN, Row
from orchestrator.sweeps.sweep_state import SweepTrial, replay_sweep, sweep_log
from orchestrator.sweeps.tuning import Tuning, hopeless
from orchestrator.track.events import Interrupt
from tests.orchestrator.conftest import FakeRun
from tests.support.sweeps import in_store, row, state_of, trial
from tests.support.tiny_models import tokenizer
from trainers.data.prompts import Prompt
from trainers.messages import TaskRows
from trainers.models.encoder import LabelEmbedding
from trainers.models.tokens import TaskExamples, TokenizedTask

Begin = Callable[..., FakeRun]


def tuned(number: int, last: Mapping[str, Any] | None = None, error: str = "") -> Any:
    values = {"adapter.threshold": number / 100}
    config = {"number": number, "values": values}
    return SimpleNamespace(trial_id=f"t{number}", config=config, last_result=last, get_error=lambda: error)


def result_of(last: Row, **more: Any) -> dict[str, Any]:
    return {**last.model_dump(), "training_iteration": last.tasks, **more}


class Table:
    """A Tuning on a log that it holds, with the trials under way; and what it said and settled."""

    def __init__(self, config: SweepConfig, numbers: Sequence[int] = (1, 2)) -> None:
        self.said: list[str] = []
        self.settled: list[tuple[str, bool]] = []
        log = sweep_log(open_store(config.run.store), config.run.team, config.name)
        self.log = DriverLog(log, replay_sweep, "sweep", KNOWN)
        self.log.take({}, 120, lambda _: None)
        self.tuning = Tuning(config, self.log, self.said.append)
        remote = SimpleNamespace(remote=lambda run, trained: self.settled.append((run, trained)))
        self.tuning.first_tasks = SimpleNamespace(settle=remote)
        for number in numbers:
            self.tuning._record(number, {"adapter.threshold": number / 100})

    def trial(self, number: int) -> SweepTrial:
        return next(each for each in self.log.state.trials if each.number == number)


def test_a_first_task_that_is_quarantined_is_nobodys_to_begin_with(store: str) -> None:
    """It was measured, but no version of it can be forked; a later task leaves the first one as it is."""
    table = Table(in_store(store))
    report = {"done": True, "stopped": "AA is below 0.6", "quarantined": True}
    table.tuning.on_trial_result(trial=tuned(1), result=result_of(row(1, 0.5), **report))
    assert table.settled == [] and table.tuning.scheduler.measured == {1: [row(1, 0.5)]}
    table.tuning.on_trial_complete(trial=tuned(1, result_of(row(1, 0.5), **report)))
    assert table.settled == [("s-00001", False)] and table.trial(1).status == "stopped"
    table.tuning.on_trial_result(trial=tuned(2), result=result_of(row(2, 0.5), **report))
    assert table.settled[1:] == [("s-00002", True)]


def test_results_and_ends(store: str) -> None:
    table = Table(in_store(store), [1, 2, 3, 4])
    rows = [row(1, 0.5, 1000, None), row(2, 0.625, 2500, -0.125)]
    for each in rows:
        table.tuning.on_trial_result(trial=tuned(1), result=result_of(each))
    assert "trial 1: 1 of 4 tasks: AA 50.0 points, 1,000 parameters" in table.said
    assert "trial 1: 2 of 4 tasks: AA 62.5 points, BWT -12.5 points, 2,500 parameters" in table.said
    assert table.settled == [("s-00001", True)] * 2
    table.tuning.on_trial_complete(trial=tuned(1, result_of(rows[1], stopped="forgetting 0.1250 is above 0.1")))
    assert table.trial(1) == replace(trial(1, rows, "stopped"), reason="forgetting 0.1250 is above 0.1")
    table.tuning.on_trial_result(trial=tuned(2), result=result_of(row(4, 0.75), done=True))
    table.tuning.on_trial_complete(trial=tuned(2, result_of(row(4, 0.75), done=True)))
    assert table.trial(2) == trial(2, [row(4, 0.75)])
    decision = Decision(
        rule="stopping.dominated", subject="trial 3", verdict="stop", reason="dominated by trial 2 after 4 tasks"
    )
    table.tuning.scheduler.stopped[3] = decision
    table.tuning.on_trial_complete(trial=tuned(3, {"tasks": 0}))
    assert (table.trial(3).status, table.trial(3).reason) == ("stopped", "dominated by trial 2 after 4 tasks")
    assert [each.decision for each in table.log.state.decisions] == [decision]
    assert table.log.state.decisions[0].entry.op == "outcome"
    table.tuning.on_trial_complete(trial=tuned(4, result_of(row(2, 0.5), cut=True, done=True)))
    assert table.trial(4).status == "running"  # it is gone on with at the next start
    assert table.settled[-3:] == [("s-00002", False), ("s-00003", False), ("s-00004", False)]


def test_the_job_of_all_trials_holds_the_tasks_as_tokens(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "put", lambda value: value)
    rows = [TaskRows(name, ("x", "y"), {"train": (["a b", "c"], [0, 1])}, Prompt()) for name in ("one", "two")]
    reader = LabelEmbedding(None, tokenizer(), 16, "")
    ready = TaskExamples("three", {}, ("rouge_l",), 64)  # tokenised by the check, and not again
    asked = [rows[0], replace(rows[1], max_length=5), ready]
    job = Table(in_store(store), []).tuning._job(in_store(store), reader, asked)
    assert job.run == "default/s" and [type(each) for each in job.tasks[:2]] == [TokenizedTask] * 2
    assert [each.name for each in job.tasks] == ["one", "two", "three"] and job.tasks[2] is ready
    assert [each.max_length for each in job.tasks[:2]] == [None, 5]


def test_what_measured_nothing_is_no_first_task(store: str) -> None:
    table = Table(in_store(store))
    table.tuning.on_trial_result(trial=tuned(1), result={"tasks": 0, "done": True, "cut": True})
    assert table.settled == [] and table.tuning.scheduler.measured == {}


def test_failures_have_the_reason_of_their_run(store: str, fake_run: Begin) -> None:
    table = Table(in_store(store))
    run = fake_run("a", name="s-00001")
    run.append("fail", {"reason": "the loss is nan at step 3"})
    table.tuning.on_trial_error(trial=tuned(1, error="Traceback\nRayTaskError: something else"))
    table.tuning.on_trial_error(trial=tuned(2, error="Traceback\nRayActorError: the actor died"))
    assert (table.trial(1).status, table.trial(1).reason) == ("failed", "the loss is nan at step 3")
    assert table.trial(2).status == "failed" and "the actor died" in str(table.trial(2).reason)
    assert "Traceback" not in str(table.trial(2).reason)
    assert table.settled == [("s-00001", False), ("s-00002", False)]


def test_earlier_ends_are_known_to_the_scheduler(store: str) -> None:
    first = Table(in_store(store))
    first.tuning.on_trial_result(trial=tuned(1), result=result_of(row(1, 0.5)))
    first.tuning.on_trial_result(trial=tuned(2), result=result_of(row(1, 0.25)))
    first.tuning.on_trial_complete(trial=tuned(2, result_of(row(1, 0.25), stopped="a guard")))
    first.log.append(Interrupt(reason="told to leave"))
    again = Table(in_store(store), [])
    assert again.tuning.scheduler.measured == {2: [row(1, 0.25)]}  # trial 1 reports anew


@pytest.mark.parametrize("why", ["budget", "signal", "hopeless"])
def test_leaving(store: str, why: str) -> None:
    """Trials under way are kept, once, and no other is begun."""
    cluster = {"use_gpu": True, "num_workers": 1}
    table = Table(in_store(store, run={"cluster": cluster}, budget={"gpu_hours": 1}), [1, 2, 3])
    left, told = [], [False]

    def stop() -> None:
        if told[0]:
            raise Interrupted("told to leave")

    pool = SimpleNamespace(leave=lambda: left.append(1))
    table.tuning.session = SimpleNamespace(pool=pool, stop=stop, began=0.0)  # type: ignore[assignment]
    table.tuning.on_step_begin(iteration=1, trials=[])
    assert table.tuning.leaving is None and left == []
    if why == "budget":
        hour = row(1, 0.5, train_s=3000, evaluate_s=600)
        table.tuning.on_trial_result(trial=tuned(1), result=result_of(hour))
    elif why == "signal":
        told[0] = True
    else:
        for number in (1, 2, 3):
            table.tuning.on_trial_error(trial=tuned(number, error="no data"))
    for iteration in (2, 3):
        table.tuning.on_step_begin(iteration=iteration, trials=[])
    expected = {"budget": "1.00 GPU-hours", "signal": "told to leave", "hopeless": "first 3 trials failed"}
    assert expected[why] in str(table.tuning.leaving) and left == [1]
    assert sum("trials under way are kept" in line for line in table.said) == 1


def test_a_driver_that_was_taken_over_from_leaves(store: str) -> None:
    config = in_store(store)
    table = Table(config)
    table.log.lease = 99
    with pytest.raises(ConflictError):
        table.tuning.on_step_begin(iteration=1, trials=[])


@pytest.mark.parametrize(
    ("statuses", "given_up"),
    [
        (["failed"] * 2, False), (["failed"] * 3, True), (["failed"] * 5 + ["running"], True),
        (["finished"] + ["failed"] * 9, False), (["failed"] * 3 + ["stopped"], False), ([], False),
    ],
)  # fmt: skip
def test_hopeless(statuses: list[Any], given_up: bool) -> None:
    state = state_of(*(trial(n, (), status) for n, status in enumerate(statuses, 1)))
    why = hopeless(state)
    assert bool(why) == given_up
    if why:
        assert f"first {statuses.count('failed')} trials failed" in why and "the loss is nan" in why
