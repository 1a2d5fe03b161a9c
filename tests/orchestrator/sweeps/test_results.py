"""What a sweep leaves: a configuration that runs, a picture, what mattered, files whose digests hold."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from cluster.errors import IntegrityError, StoreError
from cluster.storage import LocalStore
from cluster.storage.disk import DiskFullError
from orchestrator.config.run import load_config, parse_config
from orchestrator.sweeps.choice import Choice, choose, unmet
from orchestrator.sweeps.config import ChoiceConfig, SweepConfig
from orchestrator.sweeps.events import Chosen
from orchestrator.sweeps.results import (
    PICTURE,
    RECOMMENDED,
    TRIALS,
    as_json,
    conclude,
    fetch,
    importances,
    picture,
    publish,
    recommended_yaml,
    settings_of,
    title_of,
)  # fmt: skip
from orchestrator.sweeps.sweep_state import SweepTrial, sweep_log
from orchestrator.track.driving import Status
from tests.support.disks import Disk
from tests.support.sweeps import TASKS, finished, row, run_content, state_of, sweep_of, trial

T, R, SIDE, ENERGY = (
    "adapter.threshold", "adapter.max_rank", "adapter.orthogonality.side", "adapter.orthogonality.energy",
)  # fmt: skip
NOTHING = Choice((), None, "")


# --- recommended.yaml


@pytest.fixture
def config() -> SweepConfig:
    own = {"target_modules": ["output.dense", "query"], "orthogonality": {"energy": 0.7}}
    sides, most = {"choice": ["output", "both"]}, {"choice": [None, 9]}
    return sweep_of(
        {T: {"uniform": [0.1, 0.9]}, SIDE: sides, "adapter.max_parameters": most},
        tasks=2, run={"team": "blue", "adapter": own, "guards": {"max_forgetting": 0.3}},
        stopping={"max_forgetting": 0.1},
    )  # fmt: skip


def test_the_recommended_configuration_is_the_trials_with_all_tasks(config: SweepConfig, tmp_path: Path) -> None:
    values = {T: 0.1 + 0.2, SIDE: "both", "adapter.max_parameters": None}
    trials = [trial(6, [row(2, 0.7)]), trial(7, [row(2, 0.9)], values=values)]
    text = recommended_yaml(config, Choice((7,), 7, "best AA ≥ 90 – it's: #1"), trials)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    adapter = {
        "target_modules": ["output.dense", "query"], "threshold": 0.1 + 0.2, "max_parameters": None,
        "orthogonality": {"energy": 0.7, "side": "both"},
    }  # fmt: skip
    expected = run_content(name="s-best", team="blue", adapter=adapter, guards={"max_forgetting": 0.3})
    found = load_config(tmp_path / "r.yaml")
    assert found == parse_config(expected, "") and [task.name for task in found.tasks] == [*TASKS]
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert "blue/s: trial 7, best AA ≥ 90 – it's: #1" in comment[0]
    assert f"#   {T}: {0.1 + 0.2}" in comment and f"#   {SIDE}: both" in comment
    assert "--set name=s-00007" in comment[-1] and "2 task" in comment[-1]


def test_the_name_of_the_trial_goes_on_from_it(config: SweepConfig, tmp_path: Path) -> None:
    """What the file advises: the same configuration as the trial's, but for more tasks and the run's guards."""
    values = {T: 0.25, SIDE: "output"}
    (tmp_path / "r.yaml").write_text(recommended_yaml(config, Choice((3,), 3, "x"), [trial(3, values=values)]))
    found, trained = load_config(tmp_path / "r.yaml", ["name=s-00003"]), config.trial(3, values)
    assert found.model_copy(update={"tasks": found.tasks[:2], "guards": trained.guards}) == trained


# --- picture


def pixels(data: bytes) -> Image.Image:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    Image.open(io.BytesIO(data)).verify()
    return Image.open(io.BytesIO(data)).convert("RGB")


def drawn(trials: Sequence[SweepTrial], rule: ChoiceConfig = ChoiceConfig()) -> bytes:  # noqa: B008
    config = sweep_of({T: {"uniform": [0.1, 0.9]}}, choice=rule.model_dump(mode="json"))
    found = pixels(picture(config, trials, choose(trials, rule)))
    assert found.size == (960, 672)
    return found.tobytes()


def test_pictures() -> None:
    """One for what a sweep may come to; each shows something else, and the same data the same."""
    two = [finished(1, 0.8, 1000, -0.1), finished(2, 0.7, 500, 0.0)]
    shown = [
        drawn([]),
        drawn([finished(1, 0.8, 1000, None)]),  # one task has no BWT
        drawn(two),
        drawn([two[0], finished(2, 0.7, 500, -0.05)]),  # another BWT
        drawn([*two, finished(3, 0.6, 2000, 0.0)]),
        drawn([*two, trial(4, [row(2, 0.9)], "stopped")]),
        drawn([*two, trial(4, [row(3, 0.9)], "stopped")]),  # after another number of tasks
        drawn([*two, trial(5, status="failed")]),  # in the title alone
        drawn(two, ChoiceConfig(min_bwt=-0.05)),  # which trial 1 breaks
        drawn(two, ChoiceConfig(rule="best_accuracy", max_parameters=700)),
    ]
    assert len({*shown}) == len(shown) and drawn(two) == shown[2]
    assert drawn([*two, trial(6, status="running")]) == shown[2]


def test_words_of_a_picture() -> None:
    rule = ChoiceConfig(rule="best_accuracy", min_bwt=-0.05, max_parameters=700)
    config = sweep_of({T: {"uniform": [0.1, 0.9]}, R: {"choice": [4, 8]}}, choice=rule.model_dump(mode="json"))
    ended = [finished(1, 0.8, 1000, -0.1), trial(4, [row(2, 0.9)], "stopped"), trial(5, status="failed")]
    assert title_of(config, ended) == "default/s: 1 finished, 1 stopped, 1 failed"
    assert title_of(config, []) == "default/s: no trial has ended"
    assert settings_of(config).splitlines() == [
        "4 tasks on minilm, method oa", "searched: threshold uniform [0.1, 0.9]; max_rank choice [4, 8]",
        "chosen by: rule best_accuracy, within 0.005, min_bwt -0.05, max_parameters 700",
    ]  # fmt: skip
    assert unmet(row(4, 0.8, 1000, -0.1), rule) == ["choice.min_bwt -0.05", "choice.max_parameters 700"]
    assert unmet(row(4, 0.8, 700, -0.05), rule) == []


def test_a_front_without_a_recommended_point() -> None:
    trials, config = [finished(1, 0.8, 1000, -0.1), finished(2, 0.7, 500, 0.0)], sweep_of()
    without, chosen = (pixels(picture(config, trials, Choice((2, 1), number, ""))).tobytes() for number in (None, 2))
    assert without != chosen


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("trials", [[], [finished(1, 0.8, 1000, -0.1)]])
def test_a_picture_without_a_front_has_no_warning(trials: list[SweepTrial]) -> None:
    """No trial is within the bound on BWT."""
    drawn(trials, ChoiceConfig(min_bwt=0.0))


# --- importances


def trials_of(count: int, seed: int = 0) -> list[SweepTrial]:
    """AA is the threshold's, parameters are the rank's; `energy` is drawn too, and moves nothing."""
    draw = random.Random(seed)
    found = []
    for number in range(1, count + 1):
        t, r, e = draw.uniform(0.1, 0.9), draw.choice((4, 8, 16)), draw.choice((0.8, 0.9))
        found.append(trial(number, [row(4, 0.9 - t / 2, 1000 * r)], values={T: t, R: r, ENERGY: e}))
    return found


SEARCHED: dict[str, Any] = {
    T: {"uniform": [0.1, 0.9]}, R: {"choice": [4, 8, 16]}, ENERGY: {"choice": [0.8, 0.9]},
}  # fmt: skip


def test_what_alone_moved_an_objective_is_named() -> None:
    found = importances(sweep_of(SEARCHED), trials_of(16))
    assert {*found} == {"aa", "parameters"}
    for shares in found.values():
        assert {*shares} == {*SEARCHED} and sum(shares.values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in shares.values())
    assert found["aa"][T] > 0.9 and found["parameters"][R] > 0.9


def test_the_same_trials_have_the_same_importances() -> None:
    once, again = (importances(sweep_of(SEARCHED), trials_of(8)) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(("count", "enough"), [(0, False), (3, False), (4, True)])
def test_too_few(count: int, enough: bool) -> None:
    ended = [trial(9, [row(2, 0.1)], "stopped", {T: 0.1}), trial(8, [row(4, 0.1)], "failed", {T: 0.2})]
    assert bool(importances(sweep_of(SEARCHED), [*trials_of(count), *ended])) == enough


def test_what_does_not_vary_is_left_out() -> None:
    """An objective, a key, and what is searched under a condition."""
    space = {**SEARCHED, SIDE: {"choice": ["both"]}, "adapter.budget_weight": {"uniform": [0, 1], "when": {R: [4]}}}
    flat = [
        trial(each.number, [row(4, each.rows[0].aa, 500)], values={**each.values, SIDE: "both", ENERGY: 0.8})
        for each in trials_of(6)
    ]
    found = importances(sweep_of(space), flat)
    assert {*found} == {"aa"} and {*found["aa"]} == {T, R}
    same = [trial(n, [row(4, 0.5, 500)], values={T: n / 10, R: 4, ENERGY: 0.8}) for n in range(1, 6)]
    assert importances(sweep_of(SEARCHED), same) == {}


# --- the store


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


FILES = {RECOMMENDED: b"name: x\n", PICTURE: bytes(range(256)), TRIALS: b"[]"}


def published(store: LocalStore, files: dict[str, bytes]) -> Chosen:
    """As a log entry has it."""
    made = publish(store, sweep_log(store, "default", "s"), Chosen(pareto=()), files)
    return Chosen.model_validate(json.loads(json.dumps(made.body())))


def inside(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_there_and_back(store: LocalStore, tmp_path: Path) -> None:
    choice = published(store, FILES)
    assert choice.prefix.startswith("t/default/.sweeps/s/v/")
    assert published(store, FILES).prefix != choice.prefix
    fetch(store, choice, tmp_path / "out" / "s")
    assert inside(tmp_path / "out" / "s") == FILES  # and no temporary file beside them


def test_newer_files_take_the_place_of_older_ones(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    fetch(store, published(store, FILES), folder)
    (folder / "notes.txt").write_bytes(b"mine")
    fetch(store, published(store, {PICTURE: b"new", TRIALS: b"[1]"}), folder)  # nothing is recommended any more
    assert inside(folder) == {PICTURE: b"new", TRIALS: b"[1]", "notes.txt": b"mine"}


@pytest.mark.parametrize("name", [*FILES])
@pytest.mark.parametrize("data", [b"", b"tampered"])
def test_a_tampered_file_is_refused(store: LocalStore, tmp_path: Path, name: str, data: bytes) -> None:
    folder = tmp_path / "out"
    fetch(store, published(store, dict.fromkeys(FILES, b"old")), folder)
    choice = published(store, FILES)
    (store.root / choice.prefix / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        fetch(store, choice, folder)
    assert inside(folder) == dict.fromkeys(FILES, b"old")  # what was there stands


def test_a_path_that_leads_out_is_refused(store: LocalStore, tmp_path: Path) -> None:
    choice = published(store, FILES)
    files = (choice.files[0].model_copy(update={"path": "../evil"}), *choice.files[1:])
    with pytest.raises(IntegrityError):
        fetch(store, choice.model_copy(update={"files": files}), tmp_path / "out")
    assert not (tmp_path / "evil").exists() and inside(tmp_path / "out") == {}


# --- the whole


def test_conclusion() -> None:
    config = sweep_of(SEARCHED)
    trials = [*trials_of(5), trial(6, [row(1, 0.5, bwt=None)], "stopped", {T: 0.5}), trial(7, [], "running", {T: 0.4})]
    chosen, files = conclude(config, state_of(*trials))
    choice = choose(trials, config.choice)
    assert {*files} == {RECOMMENDED, PICTURE, TRIALS}
    assert (chosen.pareto, chosen.recommended, chosen.reason) == (choice.pareto, choice.recommended, choice.reason)
    assert {*chosen.importance} == {"aa", "parameters"}
    assert Chosen.model_validate(json.loads(json.dumps(chosen.body(), allow_nan=False))).same(chosen)
    written = json.loads(files[TRIALS])
    assert [(each["number"], each["status"]) for each in written] == [
        *((n, "finished") for n in range(1, 6)), (6, "stopped"), (7, "stopped"),
    ]  # fmt: skip
    assert [each["values"] for each in written] == [dict(each.values) for each in trials]
    assert [len(each["rows"]) for each in written] == [1] * 6 + [0]


def test_conclusion_of_nothing() -> None:
    chosen, files = conclude(sweep_of(), state_of())
    assert (chosen.pareto, chosen.recommended, chosen.importance) == ((), None, {})
    assert {*files} == {PICTURE, TRIALS} and json.loads(files[TRIALS]) == []


def test_a_row_holds_nothing_that_json_lacks() -> None:
    with pytest.raises(ValidationError, match="train_s"):
        row(1, 0.5, train_s=float("nan"))


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("running", ["finished", "stopped", "failed", "running"]),
        ("finished", ["finished", "stopped", "failed", "stopped"]),
        ("interrupted", ["finished", "stopped", "failed", "stopped"]),
        ("failed", ["finished", "stopped", "failed", "stopped"]),
    ],
)
def test_statuses(sweep: Status, expected: list[str]) -> None:
    trials = [
        finished(1, 0.9, 100), trial(2, [row(1, 0.5), row(2, 0.6, 70, -0.1)], "stopped"), trial(3, [], "failed"),
        trial(4, [], "running"),
    ]  # fmt: skip
    found = as_json(sweep_of(), state_of(*trials, status=sweep), Path("out"))
    assert [each["status"] for each in found["trials"]] == expected
    reasons = [each["reason"] for each in found["trials"]]
    assert reasons[:3] == [None, None, "the loss is nan"] and bool(reasons[3]) == (sweep != "running")
    last = found["trials"][1]
    assert (last["tasks"], last["aa"], last["parameters"], last["bwt"], len(last["rows"])) == (2, 0.6, 70, -0.1, 2)
    assert "aa" not in found["trials"][2] and found["trials"][0]["run"] == "s-00001"


def test_json_of_a_choice_and_of_none() -> None:
    config, folder = sweep_of(run={"team": "blue"}), Path("out")
    choice = Chosen(pareto=(2, 1), recommended=2, reason="best", importance={"aa": {T: 1.0}})
    found = as_json(config, state_of(finished(1, 0.9, 100), status="finished", choice=choice), folder)
    assert {key: found[key] for key in found if key != "trials"} == {
        "name": "s", "team": "blue", "state": "finished", "pareto": [2, 1], "recommended": 2, "reason": "best",
        "recommended_config": "out/recommended.yaml", "importance": {"aa": {T: 1.0}}, "picture": "out/front.png",
        "decisions": [],
    }  # fmt: skip
    none = as_json(config, state_of(choice=choice.model_copy(update={"recommended": None})), folder)
    assert (none["recommended_config"], none["picture"]) == (None, "out/front.png")
    before = as_json(config, state_of(), folder)
    assert (before["pareto"], before["recommended"], before["picture"], before["importance"]) == ([], None, None, {})


def test_a_full_disk_is_named_and_keeps_what_was_there(store: LocalStore, disk: Disk) -> None:
    folder = disk.path / "out"
    fetch(store, published(store, dict.fromkeys(FILES, b"old")), folder)
    filler = disk.fill()
    with pytest.raises(DiskFullError, match=f"cannot write {folder}/.*: No space left.*; free some space there"):
        fetch(store, published(store, dict.fromkeys(FILES, b"new" * 3_000)), folder)
    assert inside(folder) == dict.fromkeys(FILES, b"old")
    filler.unlink()
    disk.remount("ro")
    with pytest.raises(StoreError, match=f"cannot write the sweep's result in {folder}: Read-only.*another --output"):
        fetch(store, published(store, FILES), folder)
    disk.remount("rw")
    fetch(store, published(store, FILES), folder)
    assert inside(folder) == FILES
