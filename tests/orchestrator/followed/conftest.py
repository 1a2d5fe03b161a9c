"""A run whose version is scored again and again without a model: evaluations are made of bits."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.delivery.evaluating import Evaluation, RowsScored
from orchestrator.delivery.repertoire import version_of
from orchestrator.followed.recording import record
from orchestrator.log.entry import Entry
from orchestrator.registry.references import Version
from orchestrator.track.intervals import of_share

Recorder = Callable[..., Entry]


def evaluated(values: Sequence[float], *, task: str = "a", rows: str = "one", loss: bool = False) -> Evaluation:
    mean = float(np.mean(values))
    return Evaluation(
        reference="team/run@v1", task=task, rows=len(values),
        metrics={"nll": -float(np.log(mean))} if loss else {"accuracy": mean},
        interval=None if loss else of_share(sum(values), len(values)), floor={}, worst=[],
        scored=RowsScored(values=np.array(values, float), sha256=(rows * 64)[:64]),
    )  # fmt: skip


@pytest.fixture
def version(fake_run: Callable[..., Any]) -> Version:
    """Version 2 of a run of two tasks."""
    run = fake_run("a", "b")
    run.commit([0.9, 0.2], [0.8, 0.25], zero_shot=[0.5, 0.05])
    run.commit([0.7, 0.6], [0.7, 0.6])
    return version_of(run.track.store, f"{run.track.label}@v2")


@pytest.fixture
def recorder(version: Version) -> Recorder:
    def call(values: Sequence[float], note: str = "", **how: Any) -> Entry:
        made = evaluated(values, **how)
        return record(version, made, asked="production", files={"a.csv": "f" * 64}, settings={}, seconds=1.5, note=note)

    return call
