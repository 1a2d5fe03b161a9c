"""What is scored after each task, and how it stands in the log, in figures and in bounds; what it costs."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import GuardStop, Interrupted
from cluster.storage import LocalStore
from orchestrator.config.run import RunConfig, parse_config
from orchestrator.console.run import print_status
from orchestrator.console.screen import out
from orchestrator.gates.bounds import judge
from orchestrator.gates.figures import measured
from orchestrator.log.decision import stops
from orchestrator.registry.catalog import rows_of
from orchestrator.registry.verify import verify
from orchestrator.run.changes import HARMLESS, without
from orchestrator.run.controller import Controller
from orchestrator.run.evaluation import Size, cost, scored, trained_rows
from orchestrator.run.fork import plan_fork
from orchestrator.run.tracking import accuracies, summary
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track
from orchestrator.track.view import status_view
from tests.golden.golden import GOLDEN
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray
from trainers.config import TrainConfig

NAMES = ("a", "b", "c", "d", "e")
EVERY = {"tasks": "seen", "every": 2}
FORGETTING = {"max_forgetting": 0.5}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def done(config: RunConfig, **workers: Any) -> tuple[Controller, FakeWorkers]:
    fake = FakeWorkers(config, **workers)
    controller = Controller(config, Told(), workers=fake)
    controller.run()
    return controller, fake


def order(**sections: Any) -> list[tuple[list[int], list[int]]]:
    """Tasks scored after each of five, on validation and test splits."""
    config = run_config(Path("store"), NAMES, **sections)
    rows = [scored(config, index) for index in range(len(NAMES))]
    return [([*row["validation"]], [*row["test"]]) for row in rows]


@pytest.mark.parametrize("tasks", ["all", "seen"])
@pytest.mark.parametrize("every", [1, 2, 3, 9])
@pytest.mark.parametrize("guards", [{}, {"max_active_parameters": 9}, FORGETTING, {"min_average_accuracy": 0.1}])
def test_what_is_scored(tasks: str, every: int, guards: dict[str, Any]) -> None:
    read = guards == FORGETTING or "min_average_accuracy" in guards
    for index, (validation, test) in enumerate(order(evaluate={"tasks": tasks, "every": every}, guards=guards)):
        whole = (index + 1) % every == 0 or index == 4
        row = [*range(5 if tasks == "all" else index + 1)] if whole else [index]
        assert test == row
        assert validation == ([*range(index + 1)] if read and not whole else row)


def test_the_untrained_model_is_scored_once_and_with_all_tasks() -> None:
    for tasks in ("all", "seen"):
        config = run_config(Path("store"), NAMES, evaluate={"tasks": tasks, "every": 2})
        assert [scored(config, index)["zero_shot"] for index in range(5)] == [tasks == "all", *[False] * 4]


def test_orders_say_how_many_rows_and_answers(tmp_path: Path) -> None:
    for settings, expected in (({}, (None, 50)), ({"rows": 7, "keep_answers": 0}, (7, 0))):
        _, fake = done(run_config(tmp_path / f"{len(settings)}", evaluate=settings))
        assert {(order.rows, order.keep_answers) for order in fake.orders} == {expected}


# --- what was not scored stands as absent


@pytest.fixture
def sparse(tmp_path: Path) -> Controller:
    """Three of five tasks, the last of them alone in its row."""
    config = run_config(tmp_path / "store", NAMES, evaluate=EVERY, guards={"max_active_parameters": 54})
    fake = FakeWorkers(config, accuracy={0: 0.8, 1: 0.4, 2: 0.1}, raises={3: [Interrupted("told to leave")]})
    controller = Controller(config, Told(), workers=fake)
    with pytest.raises(Interrupted):
        Controller(config, Told(), workers=fake).run()
    controller.log = type(controller.log)(controller.track)
    return controller


def test_in_the_log(sparse: Controller) -> None:
    bodies = [entry.body for entry in sparse.track.entries() if entry.op == "commit"]
    none = {"correct": None, "rows": 0}
    assert [body["test"] for body in bodies] == [
        [{"correct": 16, "rows": 20}],
        [{"correct": 16, "rows": 20}, {"correct": 8, "rows": 20}],
        [none, none, {"correct": 2, "rows": 20}],
    ]
    assert all("zero_shot" not in body for body in bodies)


def test_in_matrix_and_metrics(sparse: Controller) -> None:
    state = sparse.state
    assert state.matrix("test")[:3] == [
        [0.8, None, None, None, None], [0.8, 0.4, None, None, None], [None, None, 0.1, None, None],
    ]  # fmt: skip
    assert state.whole("test") == state.whole("validation") == 2
    assert state.metrics("test") == {
        "aa": pytest.approx(0.6), "aa_micro": pytest.approx(0.6), "bwt": 0.0, "forgetting": 0.0, "fwt": None,
        "learning_accuracy": pytest.approx(0.6),
    }  # fmt: skip


def test_in_status(sparse: Controller, capsys: pytest.CaptureFixture[str]) -> None:
    shown = status_view(sparse.state)
    assert (shown["metrics_after"], shown["validation_metrics_after"]) == (2, 2)
    whole = status_view(sparse.state.upto(2))
    assert not {"metrics_after", "validation_metrics_after"} & whole.keys()
    with out.capture() as captured:
        print_status(sparse.state)
    assert "after 2 of them, since when not all were scored:" in captured.get()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ c "))
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["c", "·", "·", "10.0 ±12.5", "·", "·"]


def test_in_sinks(sparse: Controller) -> None:
    told = summary(sparse.state)
    assert {key for key, value in told.items() if value is None} == {
        f"{key}/{split}" for key in ("aa", "bwt", "forgetting") for split in ("validation", "test")
    }
    assert accuracies(sparse.state)["a"] == {"accuracy/validation": None, "accuracy/test": None}
    assert accuracies(sparse.state)["c"] == {"accuracy/validation": 0.1, "accuracy/test": 0.1}
    assert summary(sparse.state.upto(2))["aa/test"] == pytest.approx(0.6)


def test_in_lists_and_promotion(sparse: Controller) -> None:
    """An AA of two tasks says nothing of the third version."""
    rows = rows_of("default/stream", sparse.track.entries())
    assert [row["average_accuracy"] for row in rows] == [0.8, pytest.approx(0.6), None]
    bounds = run_config(Path("store"), guards={"min_average_accuracy": 0.1, "max_forgetting": 0.9}).guards
    assert stops(judge(bounds, measured(sparse.state.upto(2)), "")) == []
    assert stops(judge(bounds, measured(sparse.state), "")) == [
        "AA was not measured, but min_average_accuracy asks for it",
        "forgetting was not measured, but max_forgetting asks for it",
    ]


def test_a_guard_set_later_reads_the_last_whole_row(sparse: Controller) -> None:
    guards = {"min_average_accuracy": 0.5, "max_forgetting": 0.5}
    config = run_config(Path(sparse.config.store), NAMES, evaluate=EVERY, guards=guards)
    fake = FakeWorkers(config, accuracy={0: 0.8, 1: 0.4, 2: 0.1})
    with pytest.raises(GuardStop, match=r"AA of 45\.00 points is below guards\.min_average_accuracy"):
        Controller(config, Told(), workers=fake).run()
    assert [order.index for order in fake.orders] == [3] and [*fake.orders[0].validation] == [0, 1, 2, 3]


def test_a_whole_row_at_the_end_gives_all_figures(tmp_path: Path) -> None:
    config = run_config(tmp_path / "store", NAMES, evaluate={"every": 2})
    controller, _ = done(config, accuracy=dict.fromkeys(range(5), 0.8))
    state = controller.state
    assert state.whole("test") == 5 and state.metrics("test")["aa"] == pytest.approx(0.8)
    # after b and d the next task was scored; of these pairs alone FWT is the mean
    assert state.metrics("test")["fwt"] == 0.0 and state.matrix("test")[2] == [None, None, 0.8, None, None]


def test_a_fork_keeps_what_was_scored(sparse: Controller, tmp_path: Path) -> None:
    config = run_config(tmp_path / "store", NAMES, name="other", evaluate=EVERY)
    controller = Controller(config, Told(), plan_fork(sparse.track, 4), FakeWorkers(config))
    state: RunState = controller.run()
    assert [score.rows for score in state.commits[2].test] == [0, 0, 20] and state.whole("test") == 5


# --- the section may change, and runs without it are as they were


def test_a_run_of_before_goes_on_with_less(tmp_path: Path) -> None:
    store = tmp_path / "store"
    before, _ = done(run_config(store, NAMES[:2]))
    assert "evaluate" not in before.state.config
    after, fake = done(run_config(store, NAMES, evaluate={**EVERY, "rows": 3}))
    assert [[*order.test] for order in fake.orders] == [[2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert after.state.status == "finished" and after.state.completed().evaluate.rows == 3
    opened = [entry.body["config"] for entry in after.track.entries() if entry.op == "open"]
    assert "evaluate" not in opened[0]
    assert opened[1]["evaluate"] == {"tasks": "seen", "every": 2, "rows": 3, "keep_answers": 50}


def test_scores_of_other_rows_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two correct of 10 rows are not forgetting of ten correct of 20."""
    store = tmp_path / "store"
    done(run_config(store, NAMES[:2]), accuracy={0: 0.5, 1: 0.5})
    after, _ = done(run_config(store, NAMES[:3], evaluate={"rows": 10}), accuracy={0: 0.2, 1: 0.5, 2: 0.5})
    found = after.state.metrics("test")
    assert found["aa"] == pytest.approx(0.4) and found["bwt"] is None and found["forgetting"] is None
    assert after.state.of_other_rows("test") == ["a", "b"] and after.state.half_widths("test")["bwt"] is None
    last, _ = done(run_config(store, NAMES[:4], evaluate={"rows": 10}), accuracy={2: 0.3})
    assert last.state.metrics("test")["bwt"] == pytest.approx(-0.2), "of task c alone"
    print_status(last.state)
    assert "leave out a, b: evaluate.rows was changed after training" in capsys.readouterr().out


def test_a_recorded_run_goes_on_with_less(tmp_path: Path) -> None:
    """One that code of before began, with its store as it was; its checkpoint is still that of its second task."""
    store = tmp_path / "store"
    shutil.copytree(GOLDEN / "interrupted", store)
    state = replay("golden", "stream", Track(LocalStore(store), "golden", "stream").entries())
    before = {path: path.read_bytes() for path in store.glob("t/**/*") if path.is_file()}
    content = {**state.config, "store": str(store), "evaluate": {"tasks": "seen", "every": 2, "rows": 5}}
    data = {task.name: task.fingerprint for task in state.tasks}
    after, fake = done(parse_config(content, "test"), data=data, base=state.base_digest)
    assert [([*order.validation], [*order.test]) for order in fake.orders] == [([0, 1], [0, 1])]
    config = {**state.config, "store": str(store)}
    left_out = (*(key for key in HARMLESS if key != "evaluate"), "tasks", "name")
    assert fake.orders[0].identity["config"] == without(config, left_out)
    assert (after.state.status, len(after.state.commits), after.state.whole("test")) == ("finished", 2, 2)
    assert all(path.read_bytes() == data for path, data in before.items()) and verify(after.track).faults == []


def test_a_checkpoint_fits_whatever_is_scored(tmp_path: Path) -> None:
    identities = []
    for number, settings in enumerate(({}, {"tasks": "seen", "every": 4, "rows": 2, "keep_answers": 0})):
        _, fake = done(run_config(tmp_path / str(number), evaluate=settings))
        identities.append(fake.orders[0].identity)
    assert identities[0] == identities[1]


# --- what it costs

SIZES = [Size(train=100, validation=10, test=20, generated=0)] * 3 + [
    Size(train=50, validation=5, test=40, generated=8)
]


def test_the_cost_of_scoring_everything() -> None:
    found = cost(run_config(Path("store"), NAMES[:4]), SIZES)
    assert found == {
        "passes": 4 * 8 + 4, "rows": 4 * (35 + 100) + 100, "trained_rows": 3 * 350,
        "generated_tokens": 8 * (4 * 45 + 40), "kept_answers": 50,
    }  # fmt: skip


def test_the_cost_of_scoring_less() -> None:
    settings = {"tasks": "seen", "every": 4, "rows": 10, "keep_answers": 3}
    found = cost(run_config(Path("store"), NAMES[:4], evaluate=settings), SIZES)
    assert found == {
        "passes": 2 * (3 + 4), "rows": 2 * 3 * 10 + 3 * 20 + 15, "trained_rows": 1050,
        "generated_tokens": 8 * 15, "kept_answers": 3,
    }  # fmt: skip
    assert cost(run_config(Path("store"), NAMES[:3]), SIZES[:3])["kept_answers"] == 0


@pytest.mark.parametrize(
    ("keys", "expected"), [({}, 3 * 70), ({"min_steps": 11}, 3 * 70 + 2 * 32), ({"max_steps": 5}, 70 + 2 * 32)]
)
def test_rows_that_are_trained(keys: dict[str, int], expected: int) -> None:
    """Three batches of 32 rows at most are an epoch of 70."""
    assert trained_rows(TrainConfig.model_validate(keys), 70) == expected


def test_a_hundred_tasks_are_affordable() -> None:
    """Passes grow with the number of tasks and no longer with its square."""
    names, sizes = [f"t{n}" for n in range(100)], [Size(train=500, validation=50, test=100, generated=64)] * 100
    everything = cost(run_config(Path("store"), names), sizes)
    less = cost(run_config(Path("store"), names, evaluate={"tasks": "seen", "every": 25, "rows": 50}), sizes)
    assert everything["passes"] == 100 * 200 + 100 and less["passes"] == 2 * (96 + 25 + 50 + 75 + 100)
    assert less["rows"] / less["trained_rows"] < 0.25 and everything["rows"] / everything["trained_rows"] > 10
