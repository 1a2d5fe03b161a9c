"""The controller with workers that are not there: what it asks for, in which order, and what it leaves in the log.

These workers share files as they are, so `history` in an order holds the bytes themselves. No Ray is started.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError, GuardStop, IntegrityError, Interrupted, TrainingError
from cluster.processes import start_time
from cluster.storage import open_store
from orchestrator.log.entry import Entry
from orchestrator.registry.gc import Collector
from orchestrator.registry.verify import verify
from orchestrator.run import driver_log as run_log
from orchestrator.run.controller import Controller
from orchestrator.run.driver_process import this_process
from orchestrator.run.fork import plan_fork
from orchestrator.run.plan import make_plan
from orchestrator.run.watch import Watch
from orchestrator.track.events import Process, Start, TaskDescription
from orchestrator.track.rules import KeyRule, RulesLog, TeamRules
from orchestrator.track.track import Track
from tests.golden.golden import GOLDEN, logged, misfits
from tests.support.fake_workers import (
    BASE,
    MODULES,
    FakeWorkers,
    Killed,
    Told,
    asked,
    run_config,
    sha256,
    without_ray,
)
from tests.support.keys import public_pem, sign_with
from trainers.config import ModelConfig, OwnTraining
from trainers.data.generative.refusals import Refused
from trainers.identity import Identity, settings_of
from trainers.messages import Lost, Order, Progress, Said, Vouched
from trainers.models.loading import read_tokenizer, resolve_name
from trainers.workers.group import WorkersLost

NO_MEMORY = Lost("out_of_memory", "no room for 4 bytes")
DIED = Lost("workers", "rank 1 died")
HALVE = {"batch_size": 16, "on_out_of_memory": "halve"}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def entries(controller: Controller) -> list[Entry]:
    return Track(controller.store, controller.config.team, controller.config.name).entries()


def ops(controller: Controller) -> list[str]:
    return [entry.op for entry in entries(controller)]


def last(controller: Controller, op: str) -> dict[str, Any]:
    return [entry.body for entry in entries(controller) if entry.op == op][-1]


# --- a run from its beginning to its end


def test_the_order_of_calls_and_entries(store: Path) -> None:
    controller, fake = asked(run_config(store))
    state = controller.run()
    assert fake.calls == [
        "check", "describe", "session", "group of 2", "train 0", "train 1", "group left", "session left",
    ]  # fmt: skip
    assert ops(controller) == ["start", "open", "workers", "commit", "workers", "commit", "finish"]
    assert (state.status, state.driving.reason, state.driving.driver) == ("finished", None, None)
    assert state == controller.state
    (start, *rest) = entries(controller)
    assert {entry.body["lease"] for entry in rest} == {start.seq} and "lease" not in start.body
    assert isinstance(controller.reporter, Told)
    assert controller.reporter.taken_at == [0] and controller.reporter.commits == [1, 2]
    assert controller.reporter.steps == [(t, Progress(i, "train", 2, 6, loss=0.5)) for i, t in enumerate("ab")]
    assert controller.reporter.lines[0] == "reading the data of 2 tasks"


def test_the_bodies_are_those_of_the_golden_logs(store: Path) -> None:
    """Key by key and type by type, for runs that met all that a driver logs."""
    controller, _ = asked(
        run_config(store, "abc", train=HALVE),
        raises={0: [WorkersLost(DIED)], 1: [WorkersLost(NO_MEMORY), Interrupted("interrupted by SIGINT")]},
    )
    with pytest.raises(Interrupted):
        controller.run()
    with pytest.raises(GuardStop):
        asked(run_config(store, "abc", train=HALVE, guards={"min_average_accuracy": 0.9}))[0].run()
    diverged = TrainingError("the loss is nan")
    diverged.evidence = {"step": 3}
    with pytest.raises(TrainingError):
        asked(run_config(store, "abc", train=HALVE), raises={1: [diverged]})[0].run()
    asked(run_config(store, "abc", train=HALVE))[0].run()
    forked = run_config(store, "abc", name="other")
    Controller(forked, Told(), plan_fork(controller.track, 3), FakeWorkers(forked)).run()
    written = {entry.op for entry in entries(controller)} | {"fork"}
    driven = {"start", "open", "workers", "retry", "commit", "interrupt", "stop", "fail", "finish"}
    assert written == {*driven, "fork"}
    expected = json.loads((GOLDEN / "expected_bodies.json").read_text())
    assert misfits(expected, logged(store)) == []


def test_orders_carry_what_a_task_has_of_its_own(store: Path) -> None:
    """And a checkpoint of a task whose training is another one now is not resumed from."""
    config = run_config(store)
    own = OwnTraining(batch_size=2, min_steps=50)
    tasks = (config.tasks[0].model_copy(update={"training": own}), config.tasks[1])
    controller, fake = asked(config.model_copy(update={"tasks": tasks}))
    controller.run()
    assert [order.training for order in fake.orders] == [own, None]
    assert [order.identity.get("task") for order in fake.orders] == [
        {"training": {"batch_size": 2, "min_steps": 50}}, None,
    ]  # fmt: skip
    assert fake.jobs[0].train == config.train


def test_a_task_of_few_rows_a_batch_is_not_halved_below_one(store: Path) -> None:
    config = run_config(store, "a", train=HALVE)
    small = config.tasks[0].model_copy(update={"training": OwnTraining(batch_size=2)})
    with pytest.raises(TrainingError, match="out of memory at 1 rows per micro-batch"):
        asked(config.model_copy(update={"tasks": (small,)}), raises={0: [WorkersLost(NO_MEMORY)]})[0].run()


def test_orders_carry_the_history(store: Path) -> None:
    config = run_config(store, "abc", train={"gradient_accumulation_steps": 2})
    controller, fake = asked(config)
    controller.run()
    (job,) = fake.jobs
    assert (job.run, job.store_uri, job.tasks, job.base) == ("default/stream", str(store), (), None)
    assert (job.model, job.adapter, job.train) == (config.model, config.adapter, config.train)
    commits = [entry.body for entry in entries(controller) if entry.op == "commit"]
    for index, order in enumerate(fake.orders):
        assert (order.index, order.accumulation, order.version_root) == (index, 2, "t/default/stream/v")
        assert order.checkpoint == "t/default/stream/checkpoint.safetensors"
        assert (order.zero_shot, order.validation, order.test, order.job) == (index == 0, range(3), range(3), None)
        assert [tuple(map(sha256, pair)) for pair in order.history] == list(order.digests)
        parents = [commit["manifest_sha256"] for commit in commits[:index]]
        assert (order.identity["index"], order.identity["parents"]) == (index, parents)
        assert order.identity["fingerprint"] == "f" * 64
        assert {*order.identity} == {"index", "fingerprint", "parents", "config"}
        assert {*order.identity["config"]} == {"team", "model", "adapter", "train", "data"}
    assert fake.orders[2].digests[:1] == fake.orders[1].digests
    files = ["adapter.safetensors", "bases.safetensors"]
    found = [tuple(sha256((store / c["prefix"] / name).read_bytes()) for name in files) for c in commits[:2]]
    assert list(fake.orders[2].digests) == found


def test_a_commit_is_whole(store: Path) -> None:
    config = run_config(store)
    controller, fake = asked(config, accuracy={0: 0.8, 1: 0.3})
    controller.run()
    first, second = (entry.body for entry in entries(controller) if entry.op == "commit")
    manifests = [json.loads((store / body["prefix"] / "manifest.json").read_bytes()) for body in (first, second)]
    described = {"name": "b", "labels": ["x", "y"], "fingerprint": "f" * 64, "warnings": []}
    described["rows"] = {"train": 40, "validation": 10, "test": 20}
    budget = {name: {"rank": 1, "max_rank": 2, "tau": 0.5} for name in MODULES}
    occupancy = {name: {"written": 0.25, "read": 0.0, "free": 3, "dropped": 0.0} for name in MODULES}
    cost = {"train_s": 1.5, "evaluate_s": 0.5, "workers": 2}
    scores = {
        "validation": [{"correct": 8, "rows": 10}, {"correct": 3, "rows": 10}],
        "test": [{"correct": 16, "rows": 20}, {"correct": 6, "rows": 20}],
    }
    assert second == {
        "version": 2, "index": 1, "task": "b", "prefix": fake.prefixes[1], "base_digest": BASE, "budget": budget,
        "overlap": 0.25, "occupancy": occupancy, "active_parameters": 18,
        "stored_bytes": sum(record["size"] for record in manifests[1]["files"]), **scores, "cost": cost,
        "manifest_sha256": sha256((store / fake.prefixes[1] / "manifest.json").read_bytes()), "lease": 1,
    }  # fmt: skip
    assert first.keys() - second.keys() == {"zero_shot"} and first["zero_shot"] == scores["test"]
    against = [sha256((store / first["prefix"] / "bases.safetensors").read_bytes())]
    content = config.model_dump(mode="json")
    code, files = manifests[1].pop("code"), manifests[1].pop("files")
    assert {record["path"] for record in files} == {"adapter.safetensors", "bases.safetensors", "training.parquet"}
    assert {*code} == {"packages", "git_commit", "git_changed"}
    assert manifests[1] == {
        "format_version": 1, "base_model": content["model"], "base_digest": BASE, "adapter": content["adapter"],
        "task": described, "budget": budget, "occupancy": occupancy, "cost": cost, "config": content,
        "principal_angles": [{"smallest": 90.0, "mean": 90.0}], "parents": [first["manifest_sha256"]],
        "trained_against": against, "metrics": scores,
    }  # fmt: skip
    report = verify(controller.track)
    assert (report.faults, report.versions, report.files) == ([], 2, 6)


def test_tasks_that_ask_for_other_workers_get_another_group(store: Path) -> None:
    config = run_config(store, "abcd", resources={"c": {"num_workers": 1}})
    _, fake = asked(config)
    Controller(config, Told(), workers=fake).run()
    assert fake.calls[3:-1] == [
        "group of 2", "train 0", "train 1", "group left", "group of 1", "train 2", "group left", "group of 2",
        "train 3", "group left",
    ]  # fmt: skip


def test_a_driver_renews_while_a_task_is_in_training(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "RENEWALS", 50)
    config = run_config(store, "a", cluster={"lease_s": 5})
    controller, _ = asked(config, during=lambda _: time.sleep(0.5))
    controller.run()
    renewed = last(controller, "renew")
    assert renewed == {"lease": 1, "progress": {"index": 0, "phase": "train", "step": 2, "total_steps": 6}}
    assert misfits(json.loads((GOLDEN / "expected_bodies.json").read_text()), logged(store)) == []


# --- going on


def test_a_finished_run_does_nothing(store: Path) -> None:
    asked(run_config(store))[0].run()
    controller, fake = asked(run_config(store))
    before, begun = ops(controller), controller.state
    assert controller.run() is begun and fake.calls == []
    assert ops(controller) == before
    assert isinstance(controller.reporter, Told) and controller.reporter.taken_at == []


def test_a_run_that_was_killed_before_it_could_finish_is_taken_and_finished(store: Path) -> None:
    """Sinks that show it as running are told of its end."""
    first = asked(run_config(store))[0]
    first.run()
    assert first.state.head and first.state.head.op == "finish"
    first.store.delete(first.track._key(first.state.head.seq))
    first.track.seen.forget()
    controller, fake = asked(run_config(store))
    assert controller.state.status == "running"
    assert controller.run().status == "finished" and fake.calls == ["check", "describe"]
    assert isinstance(controller.reporter, Told) and controller.reporter.taken_at == [2]


def test_an_appended_task_is_trained_alone(store: Path) -> None:
    asked(run_config(store))[0].run()
    controller, fake = asked(run_config(store, "abc"))
    assert len(controller.run().commits) == 3
    assert fake.calls == ["check", "describe", "session", "group of 2", "train 2", "group left", "session left"]
    assert ops(controller)[7:] == ["start", "open", "workers", "commit", "finish"]
    assert len(fake.orders[0].history) == 2 and not fake.orders[0].zero_shot
    assert [len(commit.validation) for commit in controller.state.commits] == [2, 2, 3]


@pytest.mark.parametrize("interruption", [Interrupted("interrupted by SIGTERM"), KeyboardInterrupt()])
def test_an_interrupted_run_goes_on_with_the_task_it_was_at(store: Path, interruption: BaseException) -> None:
    controller, fake = asked(run_config(store, "abc"), raises={1: [interruption]})
    with pytest.raises(type(interruption)):
        controller.run()
    assert fake.calls[-3:] == ["train 1", "group left", "session left"]
    assert ops(controller)[-1] == "interrupt"
    reason = str(interruption) or "interrupted"
    assert last(controller, "interrupt") == {"reason": reason, "lease": 1}
    again, workers = asked(run_config(store, "abc"))
    assert (again.state.status, again.state.driving.reason) == ("interrupted", reason)
    assert again.run().status == "finished"
    assert [order.index for order in workers.orders] == [1, 2]
    assert workers.orders[0] == fake.orders[1]  # the same order, identity and all: its checkpoint is resumed from
    assert ops(again)[5:] == ["interrupt", "start", "workers", "commit", "workers", "commit", "finish"]


def test_the_driver_is_told_to_leave_by_the_session(store: Path) -> None:
    controller, fake = asked(run_config(store))
    fake.interrupted = Interrupted("interrupted by SIGINT")
    with pytest.raises(Interrupted):
        controller.run()
    assert ops(controller) == ["start", "open", "workers", "interrupt"]


def test_a_crash_between_upload_and_commit(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is logged; the next driver trains the task again, and what was uploaded belongs to nobody."""
    controller, fake = asked(run_config(store))
    written = controller.track.write_manifest

    def crash(prefix: str, *rest: Any) -> str:
        sha = written(prefix, *rest)
        if prefix == fake.prefixes[-1] and len(fake.prefixes) == 2:
            raise Killed
        return sha

    monkeypatch.setattr(controller.track, "write_manifest", crash)
    with pytest.raises(Killed):
        controller.run()
    assert ops(controller) == ["start", "open", "workers", "commit", "workers"]
    again, workers = asked(run_config(store))
    assert again.state.driving.driver and [commit.version for commit in again.state.commits] == [1]
    again.run()
    assert [order.index for order in workers.orders] == [1]
    assert ops(again)[5:] == ["start", "workers", "commit", "finish"]
    committed = [entry.body["prefix"] for entry in entries(again) if entry.op == "commit"]
    assert (store / fake.prefixes[1] / "manifest.json").exists() and fake.prefixes[1] not in committed
    assert verify(again.track).faults == []


# --- the checkpoint of the task in training

KEPT = Vouched(4, "c" * 64, "i" * 64)
NAMED = {"step": 4, "sha256": "c" * 64, "of": "i" * 64}


def test_the_log_names_the_checkpoint_before_the_driver_leaves(store: Path) -> None:
    """The driver that goes on tells its workers which one it must be."""
    controller, _ = asked(run_config(store), raises={1: [Interrupted("told to leave")]}, checkpoints={1: KEPT})
    with pytest.raises(Interrupted):
        controller.run()
    assert ops(controller)[-2:] == ["renew", "interrupt"]
    assert last(controller, "renew")["progress"] == {
        "index": 1, "phase": "train", "step": 4, "total_steps": 6, "checkpoint": NAMED,
    }  # fmt: skip
    again, fake = asked(run_config(store, ("a", "b", "c")))
    assert again.run().status == "finished"
    assert [(order.index, order.vouched) for order in fake.orders] == [(1, KEPT), (2, None)]
    assert not any(order.only_vouched for order in fake.orders)


def test_workers_that_are_tried_again_are_told_of_their_checkpoint(store: Path) -> None:
    controller, fake = asked(run_config(store), raises={0: [WorkersLost(DIED)]}, checkpoints={0: KEPT})
    assert controller.run().status == "finished"
    assert [(order.index, order.vouched) for order in fake.orders] == [(0, None), (0, KEPT), (1, None)]
    assert "renew" not in ops(controller)  # it is named by the next renewal, and none was due


def test_a_signed_log_names_each_checkpoint_at_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_with(tmp_path / "key.pem", monkeypatch)
    rules = TeamRules(signatures="required", keys={"me": KeyRule(public_key=public_pem(tmp_path / "key.pem"))})
    RulesLog(open_store(str(store)), "default").change(rules, expect=0, why="")
    controller, fake = asked(run_config(store), checkpoints={0: KEPT})
    controller.run()
    assert ops(controller) == ["start", "open", "workers", "renew", "commit", "workers", "commit", "finish"]
    assert last(controller, "renew")["progress"]["checkpoint"] == NAMED
    assert all(order.only_vouched for order in fake.orders)


def test_what_a_worker_says_is_shown(store: Path) -> None:
    controller, _ = asked(run_config(store))
    watch = Watch("a", controller.config.cluster, controller.reporter, controller.log)
    watch(Said("note: a checkpoint is old"))
    assert isinstance(told := controller.reporter, Told) and told.lines == ["note: a checkpoint is old"]


# --- workers that break


def test_a_broken_group_is_tried_again(store: Path) -> None:
    controller, fake = asked(run_config(store), raises={1: [WorkersLost(DIED), WorkersLost(DIED)]})
    assert controller.run().status == "finished"
    assert [order.index for order in fake.orders] == [0, 1, 1, 1]
    assert [order.accumulation for order in fake.orders] == [1, 1, 1, 1]
    retries = [entry.body for entry in entries(controller) if entry.op == "retry"]
    decisions = [each for retry in retries for each in retry.pop("decisions")]
    assert [(each["rule"], each["measured"], each["bound"], each["verdict"]) for each in decisions] == [
        ("cluster.max_failures", 1, 2, "retry"),
        ("cluster.max_failures", 2, 2, "retry"),
    ]
    assert retries == [
        {
            "index": 1,
            "kind": "workers",
            "lease": 1,
            "reason": f"workers failed (rank 1 died); attempt {n} of 2 to go on",
        }
        for n in (1, 2)
    ]
    assert fake.calls.count("group of 2") == 1  # the group sees to its own workers
    assert ops(controller)[4:] == ["workers", "retry", "workers", "retry", "workers", "commit", "finish"]


def test_it_is_given_up_after_so_many_failures(store: Path) -> None:
    controller, _ = asked(run_config(store), raises={0: [WorkersLost(DIED)] * 3})
    with pytest.raises(TrainingError, match=r"3 times in a row \(cluster.max_failures 2\), last: rank 1 died"):
        controller.run()
    assert ops(controller)[2:] == ["workers", "retry", "workers", "retry", "workers", "fail"]
    assert last(controller, "fail")["reason"].startswith("workers failed 3 times in a row")


def test_failures_are_counted_since_the_task_last_got_further(store: Path) -> None:
    config = run_config(store, "a", cluster={"max_failures": 1})
    heard: list[int] = []

    class Further(FakeWorkers):
        def train(self, order: Order, on_event: Callable[[Any], None]) -> Any:
            heard.append(len(heard))
            on_event(Progress(0, "resume", 2 * len(heard), 20))
            return super().train(order, on_event)

    further = Further(config, raises={0: [WorkersLost(DIED)] * 3})
    assert Controller(config, Told(), workers=further).run().status == "finished"
    assert len(heard) == 4


def test_without_memory_twice_the_micro_batches(store: Path) -> None:
    """Halved twice, for the tasks after it too; the order is otherwise the same."""
    controller, fake = asked(
        run_config(store, train=HALVE), raises={0: [WorkersLost(NO_MEMORY), WorkersLost(NO_MEMORY)]}
    )
    controller.run()
    assert [(order.index, order.accumulation) for order in fake.orders] == [(0, 1), (0, 2), (0, 4), (1, 4)]
    retries = [entry.body for entry in entries(controller) if entry.op == "retry"]
    assert [(retry["kind"], retry["reason"]) for retry in retries] == [
        ("out_of_memory", f"out of memory at {rows} rows per micro-batch; train.on_out_of_memory halves them")
        for rows in (8, 4)
    ]


def test_without_memory_it_stops_unless_told_otherwise(store: Path) -> None:
    controller, fake = asked(run_config(store), raises={0: [WorkersLost(NO_MEMORY)]})
    with pytest.raises(TrainingError, match=r"raise train.gradient_accumulation_steps \(now 1\)"):
        controller.run()
    assert len(fake.orders) == 1 and ops(controller)[-1] == "fail"


def test_what_diverges_fails_with_its_evidence(store: Path) -> None:
    error = TrainingError("the loss is nan at step 3; lower train.learning_rate")
    error.evidence = {"step": 3, "losses": [0.5, 1e30]}
    controller, fake = asked(run_config(store), raises={0: [error]})
    with pytest.raises(TrainingError) as caught:
        controller.run()
    assert caught.value is error and len(fake.orders) == 1
    assert last(controller, "fail") == {"reason": str(error), "evidence": error.evidence, "lease": 1}
    assert (controller.state.status, controller.state.driving.reason) == ("failed", str(error))


def test_refused_rows_are_counted_in_the_log(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Refused("task a: rows.jsonl row 3: trains nothing", "nothing_trained")
    error.evidence = {"refused": {"nothing_trained": 2}, "rows": 9}

    def describe() -> list[TaskDescription]:
        raise error

    controller, fake = asked(run_config(store))
    monkeypatch.setattr(fake, "describe", describe)
    with pytest.raises(Refused):
        controller.run()
    assert last(controller, "fail") == {"reason": str(error), "evidence": error.evidence, "lease": 1}


def test_a_mistake_in_an_appended_task_leaves_a_finished_run_finished(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asked(run_config(store))[0].run()
    error = Refused("task c: rows.jsonl row 3: trains nothing", "nothing_trained")
    error.evidence = {"refused": {"nothing_trained": 2}, "rows": 9}

    def describe() -> list[TaskDescription]:
        raise error

    controller, fake = asked(run_config(store, "abc"))
    with monkeypatch.context() as patch, pytest.raises(Refused):
        patch.setattr(fake, "describe", describe)
        controller.run()
    assert last(controller, "fail") == {"reason": str(error), "evidence": error.evidence, "lease": 8}
    assert isinstance(controller.reporter, Told) and controller.reporter.taken_at == []
    state = asked(run_config(store))[0].state
    assert (state.status, state.driving.reason) == ("finished", str(error))
    assert (state.config, state.tasks, state.commits) == (done.config, done.tasks, done.commits)
    again, workers = asked(run_config(store))
    assert again.run().status == "finished" and workers.calls == []
    assert len(asked(run_config(store, "abc"))[0].run().commits) == 3


def test_an_error_that_nobody_foresaw_is_logged_too(store: Path) -> None:
    controller, _ = asked(run_config(store), raises={0: [ZeroDivisionError("by zero")]})
    with pytest.raises(ZeroDivisionError):
        controller.run()
    assert last(controller, "fail") == {"reason": "ZeroDivisionError: by zero", "lease": 1}


# --- guards, and leaving between two steps


def test_a_guard_stops_the_stream(store: Path) -> None:
    config = run_config(store, "abc", guards={"min_average_accuracy": 0.6})
    controller, fake = asked(config, accuracy={0: 0.7, 1: 0.3})
    with pytest.raises(
        GuardStop, match=r"AA of 50\.00 points is below guards.min_average_accuracy 0\.6 \(60\.00 points\)"
    ) as caught:
        controller.run()
    assert caught.value.exit_code == 3
    assert [order.index for order in fake.orders] == [0, 1] and fake.calls[-2:] == ["group left", "session left"]
    assert ops(controller)[-2:] == ["quarantine", "stop"]
    stop, quarantine = last(controller, "stop"), last(controller, "quarantine")
    assert [(each["measured"], each["bound"], each["verdict"]) for each in quarantine["decisions"]] == [
        (0.5, 0.6, "stop")
    ]
    assert stop == {"reason": str(caught.value), "lease": 1}
    assert controller.state.status == "stopped"
    again, workers = asked(config)
    with pytest.raises(GuardStop):
        again.run()
    assert workers.calls == ["check", "describe"]  # before anything is started
    loose, _ = asked(run_config(store, "abc"))
    assert len(loose.run().commits) == 3


def test_a_full_basis_stops_the_stream(store: Path) -> None:
    config = run_config(
        store, adapter={"target_modules": ["dense"], "orthogonality": {"weight": 5.0, "max_occupancy": 0.2}}
    )
    controller, fake = asked(config)
    with pytest.raises(GuardStop, match=r"written directions of layer.0.dense fill 25% .* and so in 1 more layers"):
        controller.run()
    assert [order.index for order in fake.orders] == [0]


def test_a_basis_that_will_not_last_is_told_of(store: Path) -> None:
    controller, _ = asked(
        run_config(store, "abcdef", adapter={"target_modules": ["dense"], "orthogonality": {"weight": 5.0}})
    )
    controller.run()
    assert isinstance(controller.reporter, Told)
    warned = [line for line in controller.reporter.lines if line.startswith("warning: ")]
    assert len(warned) == 1 and "room for 2.6 of the 5 tasks left, then the stream will stop" in warned[0]


def test_steps_are_those_before_the_first_task_and_after_each(store: Path) -> None:
    controller, fake = asked(run_config(store))
    seen = [(len(state.commits), [order.index for order in fake.orders]) for state in controller.steps()]
    assert seen == [(0, []), (1, [0]), (2, [0, 1])]
    assert ops(controller)[-1] == "finish"


@pytest.mark.parametrize(
    ("thrown", "op"),
    [(GuardStop("dominated"), "stop"), (Interrupted("the sweep leaves"), "interrupt"), (TrainingError("no"), "fail")],
)
def test_what_is_thrown_between_two_steps_is_the_reason(store: Path, thrown: Exception, op: str) -> None:
    controller, fake = asked(run_config(store, "abc"))
    steps = controller.steps()
    next(steps)
    next(steps)
    with pytest.raises(type(thrown)):
        steps.throw(thrown)
    assert fake.calls[-3:] == ["train 0", "group left", "session left"]
    assert ops(controller) == ["start", "open", "workers", "commit", op]
    assert last(controller, op)["reason"] == str(thrown)


# --- what is refused


def test_another_configuration_is_refused(store: Path) -> None:
    asked(run_config(store))[0].run()
    changed = run_config(store, "acb", train={"learning_rate": 0.5}, guards={"max_forgetting": 0.5})
    controller, fake = asked(changed)
    before = ops(controller)
    with pytest.raises(ConfigError) as caught:
        controller.run()
    lines = str(caught.value).splitlines()
    assert lines[0] == "the run 'stream' was begun otherwise:"
    assert lines[1:3] == [
        "  train.learning_rate: was 0.001, is now 0.5", "  tasks.1.name: was 'b', is now 'c'",
    ]  # fmt: skip
    assert fake.calls == [] and ops(controller) == before


BACK, ANEW = "Put the {} back, or begin anew under another `name`", "Begin anew under another `name`"
NO_FORK, ON = f"{BACK}, without --fork", f"{BACK}, or go on from {{}} in a new run, with --fork NAME"
ALL, FIRST = ON.format("{}", "tasks 1 to 2"), ON.format("{}", "task 1") + " --from-task 2"
LORA, B, C = {"method": "lora", "target_modules": ["dense"]}, {"data": {"b": "b" * 64}}, {"data": {"c": "c" * 64}}
ADVICE: dict[str, tuple[str, dict[str, Any], dict[str, Any], int, str]] = {
    # tasks, sections, what workers read; tasks that a fork keeps; what is advised
    "key": ("ab", {"train": {"epochs": 9}}, {}, 2, ALL.format("configuration")),
    "order": ("ba", {}, B, 0, NO_FORK.format("configuration")),
    "second task": ("ac", {}, C, 1, FIRST.format("configuration")),
    "fewer": ("a", {}, {}, 1, FIRST.format("configuration")),
    "rows": ("abc", {}, B, 1, FIRST.format("data")),
    "first rows": ("abc", {}, {"data": {"a": "b" * 64}}, 0, NO_FORK.format("data")),
    "method": ("ab", {"adapter": LORA}, {}, 0, NO_FORK.format("configuration")),
    "place": ("ab", {"model": {"revision": "v2"}}, {}, 2, ALL.format("configuration") + ", if this is the same base"),
}


@pytest.mark.parametrize("kind", ADVICE)
def test_what_a_refusal_advises(kind: str, store: Path) -> None:
    """Each way that it names leads on; a fork that it does not name is refused."""
    tasks, sections, read, kept, advice = ADVICE[kind]
    source, _ = asked(run_config(store))
    source.run()
    with pytest.raises(ConfigError) as caught:
        asked(run_config(store, tasks, **sections), **read)[0].run()
    assert str(caught.value).splitlines()[-1] == advice
    assert asked(run_config(store, tasks, name="anew", **sections), **read)[0].run().status == "finished"
    config = run_config(store, tasks, name="fork", **sections)
    fork = plan_fork(source.track, kept + 1 if kept == 1 else None)
    controller = Controller(config, Told(), fork, FakeWorkers(config, **read))
    if not kept:
        with pytest.raises(ConfigError):
            controller.run()
    else:
        assert controller.run().status == "finished" and controller.state.commits[kept - 1].forked_from


def test_what_a_refusal_of_another_base_advises(store: Path) -> None:
    then = {**settings_of(resolve_name("minilm"), None), "hidden_act": "relu"}
    source, _ = asked(run_config(store), base_config=then)
    source.run()
    with pytest.raises(ConfigError) as caught:
        asked(run_config(store, "abc"), base_config=then)[0].run()
    assert str(caught.value).splitlines()[-1] == NO_FORK.format("files of the base")
    assert make_plan(run_config(store, "abc")).way_on.startswith("Put the files of the base and ")
    config = run_config(store, "abc", name="fork")
    with pytest.raises(ConfigError, match="the files of the base"):
        Controller(config, Told(), plan_fork(source.track, None), FakeWorkers(config)).run()
    assert asked(run_config(store, "abc", name="anew"))[0].run().status == "finished"


def test_what_is_advised_if_a_version_was_deleted(store: Path) -> None:
    source, _ = asked(run_config(store))
    source.run()
    Collector(source.track, 0).delete(2, "")
    with pytest.raises(ConfigError) as caught:
        asked(run_config(store, "abc"))[0].run()
    on = f"{ANEW}, or go on from task 1 in a new run, with --fork NAME --from-task 2"
    assert str(caught.value).splitlines()[1:] == ["  v2: was deleted by `adapters gc`, and nothing can stand on it", on]
    config = run_config(store, "abc", name="fork")
    assert Controller(config, Told(), plan_fork(source.track, 2), FakeWorkers(config)).run().status == "finished"


def test_other_data_are_refused(store: Path) -> None:
    asked(run_config(store))[0].run()
    controller, fake = asked(run_config(store, "abc"), data={"b": "e" * 64})
    with pytest.raises(ConfigError, match="task 'b': its rows differ from those the run was begun with"):
        controller.run()
    assert fake.calls == ["check", "describe"]
    assert ops(controller)[-2:] == ["start", "fail"]


def test_before_the_first_commit_anything_may_change(store: Path) -> None:
    controller, _ = asked(run_config(store), raises={0: [Interrupted("interrupted")]})
    with pytest.raises(Interrupted):
        controller.run()
    other, _ = asked(run_config(store, "xy", train={"learning_rate": 0.5}), data={"x": "e" * 64})
    assert other.run().status == "finished"
    assert ops(other).count("open") == 2


def test_another_base_is_refused(store: Path) -> None:
    controller, _ = asked(run_config(store), raises={1: [Interrupted("interrupted")]})
    with pytest.raises(Interrupted):
        controller.run()
    again, fake = asked(run_config(store), base="c" * 64)
    with pytest.raises(
        IntegrityError, match=r"model.name: 'minilm' is not the base .*weights have sha256 cccc.*, not bbbb"
    ):
        again.run()
    assert [order.index for order in fake.orders] == [1]
    assert ops(again).count("commit") == 1 and ops(again)[-1] == "fail"
    assert not (store / fake.prefixes[0] / "manifest.json").exists()


def test_another_tokenizer_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine before anything starts, by `plan` too; on that of a worker before its task is committed."""
    here = read_tokenizer(ModelConfig())
    assert {"tokenizer.json", "tokenizer_config.json"} <= here.keys()
    controller, fake = asked(run_config(store), raises={1: [Interrupted("interrupted")]}, tokenizer=here)
    with pytest.raises(Interrupted):
        controller.run()
    assert [order.base for order in fake.orders] == [Identity(), Identity(BASE, here)]
    assert last(controller, "commit")["tokenizer"] == here
    (commit,) = controller.state.commits
    assert controller.track.manifest_of(commit)["tokenizer"] == here
    other, fake = asked(run_config(store), tokenizer={**here, "tokenizer.json": "0" * 64})
    with pytest.raises(IntegrityError, match=r"is not the base .*its tokenizer's tokenizer\.json has sha256 0"):
        other.run()
    assert ops(other).count("commit") == 1
    now = {**here, "tokenizer_config.json": "e" * 64}
    monkeypatch.setattr("trainers.identity.file_digest", lambda path: now[path.name])
    again, fake = asked(run_config(store), tokenizer=here)
    with pytest.raises(ConfigError, match=r"model\.name: its tokenizer's tokenizer_config\.json has sha256 eee"):
        again.run()
    assert fake.calls == ["check"]
    assert [line for line in make_plan(run_config(store)).objections if "tokenizer_config" in line]
    monkeypatch.undo()
    without_ray(monkeypatch)
    assert asked(run_config(store), tokenizer=here)[0].run().status == "finished"


def test_a_base_that_computes_otherwise_is_refused(store: Path) -> None:
    """As another tokenizer is. The weights are the same, so nothing else tells."""
    here = settings_of(resolve_name("minilm"), None)
    controller, fake = asked(run_config(store), raises={1: [Interrupted("interrupted")]}, base_config=here)
    with pytest.raises(Interrupted):
        controller.run()
    assert [order.base for order in fake.orders] == [Identity(), Identity(BASE, config=here)]
    (commit,) = controller.state.commits
    assert here == commit.base_config == controller.track.manifest_of(commit)["base_config"]
    other, fake = asked(run_config(store), base_config={**here, "layer_norm_eps": 0.125})
    with pytest.raises(IntegrityError, match=r"in its config\.json layer_norm_eps is 0\.125, not 1e-12"):
        other.run()
    assert ops(other).count("commit") == 1


def test_the_configuration_on_this_machine_is_compared_first(store: Path) -> None:
    then = {**settings_of(resolve_name("minilm"), None), "hidden_act": "relu"}
    controller, _ = asked(run_config(store), raises={1: [Interrupted("interrupted")]}, base_config=then)
    with pytest.raises(Interrupted):
        controller.run()
    again, fake = asked(run_config(store), base_config=then)
    with pytest.raises(ConfigError, match=r'model\.name: in its config\.json hidden_act is "gelu", not "relu"'):
        again.run()
    assert fake.calls == ["check"]
    assert [line for line in make_plan(run_config(store)).objections if "hidden_act" in line]


def test_a_log_without_a_tokenizer_goes_on_with_a_note(store: Path) -> None:
    controller, _ = asked(run_config(store), raises={1: [Interrupted("interrupted")]})
    with pytest.raises(Interrupted):
        controller.run()
    again, fake = asked(run_config(store), tokenizer={"tokenizer.json": "0" * 64})
    assert again.run().status == "finished" and fake.orders[0].base == Identity(BASE)
    assert isinstance(again.reporter, Told)
    note = "its log does not say which tokenizer and configuration its base had, so these are not compared"
    assert [line for line in again.reporter.lines if "note" in line] == [f"note: default/stream: {note}"]
    assert again.state.base == Identity(BASE, {"tokenizer.json": "0" * 64})


def test_a_second_driver_is_refused(store: Path) -> None:
    """The parent of this process stands for a driver on the same machine; it is alive."""
    first, _ = asked(run_config(store))
    here, parent = this_process(), os.getppid()
    driver = here.model_copy(update={"pid": parent, "started": start_time(parent)})
    first.track.append(Start(driver=driver, lease_s=120.0), after=None)
    second, fake = asked(run_config(store))
    with pytest.raises(ConflictError, match=rf"\(pid {parent}, since .*\) is at work on this run; let it finish"):
        second.run()
    assert fake.calls == ["check"] and ops(second) == ["start"]


def test_a_driver_that_was_taken_over_from_commits_nothing(store: Path) -> None:
    controller, fake = asked(run_config(store))

    def taken(_: Order) -> None:
        track = Track(controller.store, "default", "stream")
        driver = Process(host="there", space="", pid=1, started=1)
        track.append(Start(driver=driver, lease_s=120.0), after=track.head())

    fake.during = taken
    with pytest.raises(ConflictError, match=r"\(pid 1, since .*\) has taken the run over; leave it to that one"):
        controller.run()
    assert ops(controller) == ["start", "open", "workers", "start"]


# --- forks


def test_a_fork_takes_over_the_first_tasks(store: Path) -> None:
    source, _ = asked(run_config(store, "abc"))
    source.run()
    before = [entry.sha256 for entry in entries(source)]
    config = run_config(store, "abx", name="other", train={"learning_rate": 0.5})
    fake = FakeWorkers(config)
    controller = Controller(config, Told(), plan_fork(source.track, 3), fake)
    assert controller.run().status == "finished"
    assert ops(controller) == ["start", "fork", "commit", "commit", "open", "workers", "commit", "finish"]
    assert [order.index for order in fake.orders] == [2] and not fake.orders[0].zero_shot
    made = [entry.body for entry in entries(controller) if entry.op == "commit"]
    origin = [entry.body for entry in entries(source) if entry.op == "commit"]
    for copy, original in zip(made[:2], origin, strict=False):
        cut = {split: original[split][:2] for split in ("validation", "test", "zero_shot") if split in original}
        replaced = {"prefix": copy["prefix"], "lease": 1, "forked_from": f"default/stream@v{original['version']}"}
        assert copy == {**original, **cut, **replaced}
        names = ("manifest.json", "adapter.safetensors", "bases.safetensors", "training.parquet")
        for name in names:
            assert (store / copy["prefix"] / name).read_bytes() == (store / original["prefix"] / name).read_bytes()
    assert last(controller, "fork") == {
        "source": "default/stream", "tasks": 2, "lease": 1, "described": last(source, "open")["tasks"][:2],
    }  # fmt: skip
    assert [entry.sha256 for entry in entries(source)] == before
    again = FakeWorkers(config)
    assert Controller(config, Told(), plan_fork(source.track, 3), again).run().status == "finished"
    assert again.calls == []
