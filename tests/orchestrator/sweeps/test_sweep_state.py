"""Where a sweep stands is its log, replayed; what may change between two starts of it."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.schema import WHOLE
from cluster.storage import LocalStore
from orchestrator.config.errors import key_paths
from orchestrator.log.entry import Entry
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.sweep_state import SweepState, SweepTrial, replay_sweep, sweep_log, sweep_objections
from orchestrator.track.events import TaskDescription
from orchestrator.track.layout import list_tracks
from tests.support.entries import PROCESS, Raw
from tests.support.sweeps import row, state_of, sweep_of, trial

DATA = (
    TaskDescription(name="library", fingerprint="a" * 64),
    TaskDescription(name="section", fingerprint="b" * 64),
)
CONFIG = sweep_of().model_dump(mode="json", context=WHOLE)
BEGUN = {"config": CONFIG, "tasks": [task.body() for task in DATA]}
START = {"versions": {}, "driver": PROCESS, "lease_s": 120}


def entry(seq: int, op: str, body: Mapping[str, Any]) -> Entry:
    return Entry(seq, "", "", "me@here", f"2026-01-01T00:00:{seq:02d}+00:00", op, dict(body), f"{seq:064x}")


def replayed(*entries: tuple[str, Mapping[str, Any]]) -> SweepState:
    """Entries by one driver, whose `start` is the first."""
    made = [
        entry(seq, op, body if op == "start" else {**body, "lease": 1}) for seq, (op, body) in enumerate(entries, 1)
    ]
    return replay_sweep(made)


def point(number: int) -> dict[str, Any]:
    return {"number": number, "values": {"adapter.threshold": number / 100}, "run": f"s-{number:05d}"}


def outcome(number: int, status: str, *rows: Any, reason: str | None = None) -> dict[str, Any]:
    return {"number": number, "status": status, "reason": reason, "rows": [each.model_dump() for each in rows]}


# --- replay


def test_no_entries() -> None:
    assert replay_sweep([]) == SweepState()
    assert (SweepState().status, SweepState().trials, SweepState().choice) == ("absent", (), None)


def test_a_whole_sweep() -> None:
    rows = (row(1, 0.5, bwt=None), row(2, 0.6))
    choice = {"pareto": [1], "recommended": 1, "reason": "best", "prefix": "p", "files": []}
    entries = [
        ("start", START), ("open", BEGUN), ("trial", point(1)), ("trial", point(2)), ("trial", point(3)),
        ("outcome", outcome(2, "stopped", rows[0], reason="dominated by trial 1 after 1 task")),
        ("renew", {}), ("outcome", outcome(1, "finished", *rows)), ("outcome", outcome(3, "failed", reason="no data")),
        ("trial", point(4)), ("choice", {"pareto": []}), ("choice", choice), ("finish", {"reason": None}),
    ]  # fmt: skip
    state = replayed(*entries)
    assert state.status == "finished" and state.reason is None and state.driving.driver is None
    assert state.config == CONFIG and state.tasks == DATA
    assert state.trials == (
        trial(1, rows),
        replace(trial(2, rows[:1], "stopped"), reason="dominated by trial 1 after 1 task"),
        replace(trial(3, (), "failed"), reason="no data"),
        trial(4, (), "running"),
    )
    assert state.choice and state.choice.body() == {**choice, "lease": 1}
    assert state.head and state.driving.heard and (state.head.seq, state.driving.heard.seq) == (13, 13)
    assert [each.number for each in state.ended("running")] == [4]
    before_the_end = replayed(*entries[:-1])
    assert before_the_end.driving.driver and (before_the_end.status, before_the_end.driving.driver.seq) == (
        "running",
        1,
    )
    assert before_the_end.driving.driver.actor == "me@here"


@pytest.mark.parametrize(
    ("op", "state"), [("finish", "finished"), ("interrupt", "interrupted"), ("fail", "failed"), ("later", "running")]
)
def test_how_a_driver_left(op: str, state: str) -> None:
    entries = [("start", START), ("open", BEGUN), ("trial", point(1)), (op, {"reason": "so"})]
    found = replayed(*entries)
    assert (found.status, found.reason) == (state, None if state == "running" else "so")
    assert (found.driving.driver is None) == (state != "running")
    again = replay_sweep([entry(n, o, b) for n, (o, b) in enumerate([*entries, ("start", START)], 1)])
    assert (again.status, again.reason, len(again.trials)) == ("running", None, 1)


def test_a_trial_that_ended_is_gone_on_with_nowhere() -> None:
    """The newest outcome counts, and a renewed configuration keeps the trials."""
    state = replayed(
        ("start", START), ("open", BEGUN), ("trial", point(1)), ("outcome", outcome(1, "failed", reason="x")),
        ("outcome", outcome(1, "finished", row(4, 0.9))), ("open", {"config": {"name": "t"}, "tasks": []}),
    )  # fmt: skip
    assert state.trials == (trial(1, [row(4, 0.9)]),) and state.config == {"name": "t"} and state.tasks == ()


def test_entries_of_a_driver_that_was_taken_over_from_count_for_nothing() -> None:
    state = replay_sweep(
        [
            entry(1, "start", START),
            entry(2, "open", {**BEGUN, "lease": 1}),
            entry(3, "trial", {**point(1), "lease": 1}),
            entry(4, "start", {**START, "driver": {**PROCESS, "pid": 2}}),
            entry(5, "outcome", {**outcome(1, "finished", row(4, 0.9)), "lease": 1}),
            entry(6, "trial", {**point(2), "lease": 1}),
            entry(7, "outcome", {**outcome(2, "failed"), "lease": 1}),
            entry(8, "choice", {"pareto": [1], "lease": 1}),
            entry(9, "finish", {"reason": None, "lease": 1}),
            entry(10, "trial", {**point(2), "values": {"adapter.threshold": 0.7}, "lease": 4}),
        ]
    )
    assert state.driving.driver and state.driving.heard and state.head
    assert (state.status, state.driving.driver.seq) == ("running", 4)
    assert state.driving.driver.start.driver.body() == {**PROCESS, "pid": 2}
    assert state.trials == (trial(1, (), "running"), trial(2, (), "running", {"adapter.threshold": 0.7}))
    assert state.choice is None and (state.driving.heard.seq, state.head.seq) == (10, 10)


def test_an_index_is_no_sign_of_life() -> None:
    state = replay_sweep([entry(1, "start", START), entry(2, "index", {"upto": 1})])
    assert state.driving.heard and state.head and (state.driving.heard.seq, state.head.seq) == (1, 2)


def test_rows_by_tasks() -> None:
    found = trial(1, [row(1, 0.5), row(3, 0.7)])
    assert (found.at(1), found.at(2), found.at(3), found.last) == (row(1, 0.5), None, row(3, 0.7), row(3, 0.7))
    assert trial(1).last is None


def test_the_log_is_no_track(tmp_path: Path) -> None:
    """What it holds after it was written and read; nothing that lists runs sees it."""
    store = LocalStore(tmp_path)
    log = sweep_log(store, "default", "s")
    log.append(Raw("start", START), after=None)
    log.append(Raw("trial", {**point(1), "lease": 1}), after=log.head())
    log.append(Raw("outcome", {**outcome(1, "finished", row(4, 1 / 3, bwt=None)), "lease": 1}), after=log.head())
    assert replay_sweep(sweep_log(store, "default", "s").entries()).trials == (trial(1, [row(4, 1 / 3, bwt=None)]),)
    assert list_tracks(store) == [] and log.label == "default/s"


# --- what may change


HARMLESS = {
    "budget", "choice", "concurrent", "trials_per_gpu", "tracking", "run.cluster", "run.data_dir", "run.store",
    "run.tracking", "run.train.eval_batch_size", "run.train.checkpoint_steps", "run.train.logging_steps",
    "run.evaluate.tasks", "run.evaluate.every", "run.evaluate.keep_answers", "run.evaluate.keep_rows",
    "run.cost", "run.evaluate.labels", "run.evaluate.macro_f1",
}  # fmt: skip
SECTIONS = {
    "run", "run.model", "run.adapter", "run.adapter.functional", "run.adapter.orthogonality", "run.train", "run.data",
    "run.deepspeed",
    "run.cluster", "run.evaluate", "run.guards", "run.tracking", "budget", "search", "stopping", "choice", "tracking",
    "run.train.replay.share", "run.cost.gpu_hour", "run.cost.currency",  # the sections are null as a whole
    "run.cost.base_flops",
}  # fmt: skip
LEAVES = sorted({*key_paths(SweepConfig)} - SECTIONS)


def changed(path: str) -> dict[str, Any]:
    found = copy.deepcopy(CONFIG)
    *sections, last = path.split(".")
    target: Any = found
    for section in sections:
        target = target.setdefault(section, {})
    target[last] = "another"
    return found


def begun(*trials: SweepTrial) -> SweepState:
    return state_of(*trials, status="interrupted", config=CONFIG, tasks=DATA)


@pytest.mark.parametrize("path", LEAVES)
def test_which_keys_may_change(path: str) -> None:
    free = any(f"{path}.".startswith(f"{key}.") for key in HARMLESS)
    objections = sweep_objections(begun(trial(1, (), "running")), changed(path), [])
    assert bool(objections) != free
    if objections:
        assert all(line.startswith(path) and "'another'" in line for line in objections)
    assert sweep_objections(begun(), changed(path), []) == []  # before the first trial nothing is lost


def test_keys_within_what_is_searched() -> None:
    other = copy.deepcopy(CONFIG)
    other["search"]["space"]["adapter.threshold"]["uniform"] = [0.2, 0.9]
    (line,) = sweep_objections(begun(trial(1)), other, [])
    assert line == "search.space.adapter.threshold.uniform: was [0.1, 0.9], is now [0.2, 0.9]"


def test_several_at_once_and_none() -> None:
    other = copy.deepcopy(CONFIG)
    other["run"]["train"]["epochs"], other["search"]["seed"], other["budget"]["trials"] = 9, 1, 99
    assert sweep_objections(begun(trial(1)), other, DATA) == [
        "run.train.epochs: was 3, is now 9",
        "search.seed: was 0, is now 1",
    ]
    assert sweep_objections(begun(trial(1)), CONFIG, DATA) == []


@pytest.mark.parametrize("which", [subset for n in range(3) for subset in itertools.combinations((0, 1), n)])
def test_changed_data(which: tuple[int, ...]) -> None:
    other = {"fingerprint": "c" * 64}
    now = [task.model_copy(update=other) if index in which else task for index, task in enumerate(DATA)]
    lines = sweep_objections(begun(trial(1)), CONFIG, now)
    assert lines == [f"task {DATA[n].name!r}: its rows differ from those the sweep was begun with" for n in which]
    assert sweep_objections(begun(), CONFIG, now) == []
