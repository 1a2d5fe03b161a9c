"""What a run's sinks are told, read from a file of JSON lines."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError, GuardStop, Interrupted, TrainingError
from orchestrator.run.plan import make_plan
from orchestrator.run.tracking import described, tracked
from tests.orchestrator.conftest import FakeRun, config_of
from trainers.messages import Progress

Begin = Callable[..., FakeRun]


class Quiet:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def say(self, message: str) -> None:
        self.told.append(message)

    def taken(self, state: Any) -> None: ...

    def progress(self, task: str, progress: Progress) -> None:
        self.told.append((task, progress))

    def committed(self, state: Any) -> None:
        self.told.append(len(state.commits))


@pytest.fixture
def run(tmp_path: Path, fake_run: Begin) -> FakeRun:
    config = config_of(["a", "b"], store=str(tmp_path / "store"), tracking={"jsonl": str(tmp_path / "log.jsonl")})
    return fake_run("a", "b", config=config)


def lines(run: FakeRun) -> list[dict[str, Any]]:
    path = Path(str(run.config.tracking.jsonl))
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def logged(run: FakeRun) -> list[tuple[Any, ...]]:
    return [(line["step"], line["task"], line["values"]) for line in lines(run) if line["event"] == "log"]


def test_what_is_told(run: FakeRun) -> None:
    inner = Quiet()
    with tracked(run.config, inner) as reporter:
        reporter.say("hello")
        steps = [
            Progress(0, "train", 10, 20, 0.5, 0.125, 0.25, 3.5),
            Progress(0, "train", 20, 20, overlap=0.5, tokens_per_s=80.0, gpu_bytes=7.0),
        ]
        for each in steps:
            reporter.progress("a", each)
        reporter.progress("a", Progress(0, "evaluate", 1, 2))
        run.commit([0.5, 0.1], [0.25, 0.75])
        reporter.committed(run.state)
        run.commit([0.4, 0.9], parameters=50)
        reporter.committed(run.state)
    assert inner.told[0] == "hello" and [told[1].phase for told in inner.told[1:4]] == ["train", "train", "evaluate"]
    assert inner.told[4:] == [1, 2]
    assert logged(run)[:2] == [
        (10, "a", {"loss": 0.5, "orthogonality": 0.125, "overlap": 0.25, "mean_rank": 3.5, "progress": 0.5}),
        (20, "a", {"overlap": 0.5, "tokens_per_s": 80.0, "gpu_bytes": 7.0, "progress": 1.0}),
    ]
    first = {"aa/validation": 0.5, "aa/test": 0.25, "parameters": 100, "train_s": 1.5, "evaluate_s": 0.5}
    assert logged(run)[2:5] == [
        (1, None, first),
        (1, "a", {"accuracy/validation": 0.5, "accuracy/test": 0.25}),
        (1, "b", {"accuracy/validation": 0.1, "accuracy/test": 0.75}),
    ]
    step, task, last = logged(run)[5]
    assert (step, task, last["parameters"]) == (2, None, 150)
    assert last["aa/validation"] == pytest.approx(0.65) and last["bwt/validation"] == pytest.approx(-0.1)
    assert last["forgetting/validation"] == pytest.approx(0.1) and last["bwt/test"] == pytest.approx(0.15)
    begun, ended = lines(run)[0], lines(run)[-1]
    assert (begun["event"], begun["run"], ended["status"]) == ("start", "default/stream", "finished")
    assert ended["summary"] == last


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GuardStop("a guard"), "stopped"), (Interrupted("told to leave"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"), (TrainingError("the loss is nan"), "failed"), (ValueError(), "failed"),
        (ConflictError("taken over"), None),
    ],
)  # fmt: skip
def test_how_it_ended(run: FakeRun, error: BaseException, status: str | None) -> None:
    """A run that another driver has taken over is that one's to end."""
    with pytest.raises(type(error)), tracked(run.config, Quiet()) as reporter:
        reporter.progress("a", Progress(0, "train", 10, 20, 0.5))
        raise error
    assert [line.get("status") for line in lines(run)][2:] == ([status] if status else [])


def test_what_was_not_driven_is_not_followed(run: FakeRun) -> None:
    """A finished run, or one that another driver is at work on, is neither begun nor ended."""
    with tracked(run.config, Quiet()) as reporter:
        reporter.say("finished before")
    with pytest.raises(ConfigError), tracked(run.config, Quiet()):
        raise ConfigError("the run was begun otherwise")
    assert lines(run) == []


@pytest.mark.parametrize("error", [None, GuardStop("a guard"), KeyboardInterrupt()])
def test_a_run_whose_driver_was_killed_after_its_last_commit_is_ended(
    run: FakeRun, error: BaseException | None
) -> None:
    """Nothing is left to train, or nothing was trained before it ended; the sinks still show it as running."""
    reporter = tracked(run.config, Quiet()).__enter__()
    run.commit([0.5, 0.1])
    run.commit([0.4, 0.9])
    reporter.committed(run.state)  # and is killed here
    before = len(lines(run))
    with suppress(GuardStop, KeyboardInterrupt), tracked(run.config, Quiet()) as again:
        again.taken(run.state)
        if error:
            raise error
    begun, ended = lines(run)[before:]
    assert (begun["event"], ended["event"]) == ("start", "end")
    assert ended["status"] == (
        "finished" if error is None else "stopped" if isinstance(error, GuardStop) else "interrupted"
    )
    assert ended["summary"]["aa/validation"] == pytest.approx(0.65)


def test_parameters() -> None:
    found = described(config_of(["a"], adapter={"target_modules": ["k", "v"], "rank_pattern": {"k.0": 4}})).parameters
    assert found["adapter.threshold"] == 0.2 and found["adapter.max_parameters"] is None
    assert found["adapter.target_modules"] == '["k", "v"]' and found["adapter.rank_pattern.k.0"] == 4
    assert found["adapter.orthogonality.side"] == "output" and "store" not in found


def test_a_missing_mlflow_is_noticed_by_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'orthoplex\[mlflow\]'"):
        make_plan(config_of(["a"], tracking={"mlflow": "http://host"}))


def test_a_stored_run_without_tracking_goes_on(run: FakeRun, fake_run: Begin) -> None:
    from orchestrator.run.changes import objections

    run.commit([0.5, 0.1])
    now = run.config.model_dump(mode="json")
    stored = {key: value for key, value in now.items() if key != "tracking"}
    described_tasks = list(run.state.tasks)
    run.append("open", {"config": stored, "tasks": [task.body() for task in described_tasks]})
    assert objections(run.state, now, described_tasks) == []


def test_guards_of_the_newest_task_are_told(run: FakeRun) -> None:
    def judged(version: int, measured: object, verdict: str) -> dict[str, object]:
        return {"rule": "guards.max_forgetting", "subject": f"v{version}", "measured": measured, "bound": 0.2,
                "verdict": verdict, "reason": "so"}  # fmt: skip

    with tracked(run.config, Quiet()) as reporter:
        run.commit([0.5, 0.1])
        run.append("renew", {"decisions": [judged(1, 0.1, "go_on"), judged(2, 0.9, "stop"), {"rule": "other"}]})
        reporter.committed(run.state)
        run.commit([0.4, 0.9])
        run.append("renew", {"decisions": [judged(2, None, "stop")]})
        reporter.committed(run.state)
    first, second = [values for _, _, values in logged(run) if "guard_broken/max_forgetting" in values]
    assert first == {"guard_broken/max_forgetting": 0.0, "guard_measured/max_forgetting": 0.1,
                     "guard_bound/max_forgetting": 0.2}  # fmt: skip
    assert second == {"guard_broken/max_forgetting": 1.0, "guard_bound/max_forgetting": 0.2}
