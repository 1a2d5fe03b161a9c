"""The scores of a version for its model card are those of its commit."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.registry.figures import figures_of, of_task
from orchestrator.registry.references import resolve
from orchestrator.track.events import TaskDescription
from orchestrator.track.scores import Score
from tests.orchestrator.conftest import config_of
from tests.support.registries import publish_one, stream_of


@pytest.fixture
def run(fake_run: Callable[..., Any]) -> Any:
    made = fake_run("a", "b")
    made.commit([0.9, 0.2], [0.8, 0.25], zero_shot=[0.5, 0.05])
    made.commit([0.7, 0.6], [0.7, 0.6])
    return made


def test_all_tasks_of_a_version_with_the_metrics_of_its_stream(run: Any) -> None:
    version = resolve(run.track.store, "stream@v2")
    made = figures_of(version, ["a", "b"])
    assert made is not None and (made.reference, made.seq) == ("default/stream@v2", version.commit.seq)
    assert [(each.task, dict(each.metrics), each.rows) for each in made.tasks] == [
        ("a", {"accuracy": 0.7}, 20), ("b", {"accuracy": 0.6}, 20),
    ]  # fmt: skip
    assert made.tasks[0].interval == run.state.bounds("test")[1][0] and made.tasks[0].data == "docstrings"
    assert made.stream["aa"][0] == pytest.approx(0.65) and made.stream["forgetting"][0] == pytest.approx(0.1)
    assert made.stream["aa"][1] == run.state.half_widths("test")["aa"] and made.tasks[0].fingerprint == "f" * 64


def test_an_earlier_version_and_one_task_alone(run: Any) -> None:
    """What came later says nothing of it; of one task there are no metrics over all."""
    first = figures_of(resolve(run.track.store, "stream@v1"), ["a"])
    assert first is not None and first.tasks[0].metrics == {"accuracy": 0.8} and first.stream["aa"][0] == 0.8
    own = figures_of(resolve(run.track.store, "stream@v2"), ["b"])
    assert own is not None and [each.task for each in own.tasks] == ["b"] and own.stream == {}


def test_what_was_not_scored_has_no_figures(tmp_path: Any) -> None:
    track = stream_of(str(tmp_path / "store"))
    publish_one(track, tmp_path)
    assert figures_of(resolve(track.store, "stream@v1"), ["a"]) is None


def test_the_primary_metric_comes_first_and_a_dataset_of_the_hub_is_named() -> None:
    task = {"name": "t", "source": "hub", "dataset": "org/data", "config_name": "en", "format": "prompt_completion",
            "metrics": ["rouge_l", "exact_match"]}  # fmt: skip
    config = config_of([], tasks=[task], model={"name": "x/y", "task_type": "CAUSAL_LM"})
    score = Score(correct=5.0, rows=10, metrics={"exact_match": 0.25, "rouge_l": 0.5}, interval=(0.4, 0.6))
    made = of_task(TaskDescription(name="t"), score, config.tasks[0])
    assert [*made.metrics] == ["rouge_l", "exact_match"] and not made.classification and made.interval == (0.4, 0.6)
    assert (made.hub, made.data, made.config, made.split) == (True, "org/data", "en", "test")
