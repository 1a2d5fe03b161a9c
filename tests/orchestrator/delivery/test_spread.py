"""A prediction by several processes: what they say to each other, and one run on Ray."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, DataError, TrainingError
from cluster.resources import ClusterConfig
from cluster.session import ray_session
from orchestrator.delivery import predicting
from orchestrator.delivery.predicting import Asking, Part, Predicting
from orchestrator.delivery.predictor import Predictor
from orchestrator.delivery.spread import Answering, Opening, Reading, Spread, part_of_row, share
from orchestrator.track.state import RunState
from tests.support.untrained_runs import WORDS, labelled, write_csv, write_lines

Run = tuple[RunState, Path]


def prediction(predictor: Predictor, path: Path, output: Path) -> Predicting:
    asking = Asking(known=predictor.repertoire.tasks["a"])
    return Predicting(
        asking=asking, reference=predictor.reference, manifest_sha256="m", inputs=[path], output=output, form="jsonl"
    )


def answered(work: Predicting, opening: Any, there: set[int]) -> list[Part]:
    """The parts that one process answers, without Ray."""
    actor = Answering(work, opening)
    return [part_of_row(row) for table in Reading(work, there)(None) for row in actor(table).to_pylist()]  # type: ignore[arg-type]


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"id": str(i), "text": row["text"]} for i, row in enumerate(labelled(WORDS[0], count, "new"))]


def test_missing_parts_are_answered_as_by_one_process(
    labels: Predictor, labels_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "ROWS_AT_ONCE", {"labels": 4})
    work = prediction(labels, write_csv(tmp_path / "in.csv", rows_of(11)), tmp_path / "out.jsonl")
    opening = Opening(reference=labels.reference, store=str(labels_run[1] / "store"), how={"device": "cpu"})
    found = answered(work, opening, {1})
    assert found == [work.answered(labels, number, rows, lambda _: None) for number, rows in work.missing({1})]
    assert [(part.number, part.rows, part.unanswered) for part in found] == [(0, 4, 0), (2, 3, 0)]


def test_what_is_wrong_arrives_word_for_word(labels: Predictor, tmp_path: Path) -> None:
    """With a row, with a file, and with the version."""
    good, bad = [{"text": "a"}], [{"text": "a"}, {"text": 7}]
    work = prediction(labels, write_lines(tmp_path / "in.jsonl", bad), tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"task a: .*in.jsonl' row 2: text 7 is not a string; quote it"):
        answered(work, lambda: labels, set())
    (tmp_path / "torn.jsonl").write_text('{"text": "a"}\n{"text"')
    with pytest.raises(DataError, match=r"torn.jsonl' cannot be read \(row 2: "):
        answered(replace(work, inputs=[tmp_path / "torn.jsonl"]), lambda: labels, set())
    work = replace(work, inputs=[write_lines(tmp_path / "good.jsonl", good)])
    with pytest.raises(ConfigError, match="no/run"):
        answered(work, Opening(reference="no/run@v1", store=str(tmp_path), how={}), set())


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "expected"),
    [
        ([2], 0, 2, {"num_cpus": 1}),
        ([8, 8], 0, 4, {"num_cpus": 4}),
        ([8, 3], 0, 3, {"num_cpus": 3}),
        ([2], 0, 5, {"num_cpus": 1}),
        ([], 0, 1, {"num_cpus": 1}),
        ([16], 8, 8, {"num_cpus": 1, "num_gpus": 1}),
        ([16], 2, 3, {"num_cpus": 1, "num_gpus": 0.5}),
        ([16], 1, 3, {"num_cpus": 1, "num_gpus": 0.3333}),
    ],
)
def test_what_each_process_gets(cpus: list[float], gpus: float, workers: int, expected: dict[str, float]) -> None:
    assert share(cpus, gpus, workers) == expected


def test_native_code_is_silent_and_python_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom orchestrator.delivery.spread import python_alone_on_stderr\n"
        "with python_alone_on_stderr():\n    os.write(2, b'native ')\n    print('python', file=sys.stderr)\n"
        "os.write(2, b'after')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "python\nafter"


@pytest.mark.slow
def test_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that fails ends it, what is answered is kept, and the next run answers the rest, with the base loaded
    once per process; the order is that of the rows."""
    from tests.support import spread_here

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    loads, output, count = tmp_path / "loads", tmp_path / "out.jsonl", 16_000
    path = write_lines(tmp_path / "in.jsonl", [{"id": i, "text": f"t{i}"} for i in range(count)])
    work = Predicting(
        asking=Asking(known=None), reference="r", manifest_sha256="m", inputs=[path], output=output, form="jsonl"
    )
    work.check(replace=False)
    spread = Spread(workers=2)
    with ray_session(ClusterConfig(num_workers=2)):  # type: ignore[arg-type]
        with pytest.raises(TrainingError, match=r"a process failed \(RuntimeError: out of memory\); what is answered"):
            spread.run(work, spread_here.Opened(str(loads), fails_at=f"t{count - 1}"))
        kept = work.parts.there()
        assert kept and not output.exists()
        loads.unlink()
        done = spread.run(work, spread_here.Opened(str(loads)))
    assert done == (count, sum(kept.values()), 0)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(count))
    assert len(loads.read_text().split()) <= 2 and str(os.getpid()) not in loads.read_text().split()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "loads", "out.jsonl"]
