"""Where else trials are followed: files and servers read back with their makers' own readers."""

import itertools
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX import event_file_writer
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from cluster.errors import ConfigError
from orchestrator.sweeps.sweep_state import Row
from orchestrator.sweeps.tracking import MLflow, TensorBoard, Tracking, figures, trackers
from tests.support.sweeps import row, sweep_of

VALUES = {"adapter.threshold": 0.25, "adapter.orthogonality.side": "both", "adapter.max_parameters": None}
ROWS = [row(1, 0.5, 100, None), row(2, 0.625, 250, -0.125)]
TAGS = ("aa", "parameters", "bwt", "forgetting", "train_s", "evaluate_s")


def expected(name: str) -> list[tuple[int, float]]:
    """What was measured of one figure, by tasks done; BWT is there from the second one on."""
    return [(each.tasks, float(value)) for each in ROWS if (value := getattr(each, name)) is not None]


def trial(number: int, last: Row | None = None) -> Any:
    result = {**asdict(last), "training_iteration": 1} if last else {"tasks": 0}
    return SimpleNamespace(config={"number": number, "values": VALUES}, last_result=result)


# --- TensorBoard


def events(folder: Path) -> Iterator[Event]:
    """The records of event files: length (8 bytes, little-endian), its checksum (4), data, its checksum (4)."""
    for path in sorted(folder.rglob("events.out.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def clock(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    """Files of tensorboardX are named by the second in which they are begun."""
    seconds = itertools.count(1_000_000_000, step_s)
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: float(next(seconds))))


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measure by tasks done, and nothing else under its name."""
    clock(monkeypatch, 10)
    board = TensorBoard(tmp_path)
    for each in ROWS:
        board.measured(3, VALUES, each)
    board.measured(4, VALUES, ROWS[0])
    for last in (ROWS[-1], ROWS[-1]):  # the second time there is nothing more to do
        board.ended(3, VALUES, last)
    board.ended(4, VALUES, None)
    board.ended(9, VALUES, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00003", "00004"]
    assert scalars(tmp_path / "00004")["aa"] == [(1, 0.5)]
    found = scalars(tmp_path / "00003")
    assert {name: {*found[name]} for name in TAGS} == {name: {*expected(name)} for name in TAGS}


@pytest.mark.parametrize("step_s", [0, 10])
def test_tensorboard_has_the_point_and_keeps_the_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """Also of a trial that ends in the second in which it began: one whose tasks were all there at a restart."""
    clock(monkeypatch, step_s)
    board = TensorBoard(tmp_path)
    board.measured(1, VALUES, ROWS[-1])
    board.ended(1, VALUES, ROWS[-1])
    found: dict[str, Any] = {}
    for event in events(tmp_path):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                found |= {key: getattr(v, v.WhichOneof("kind")) for key, v in data.session_start_info.hparams.items()}
    assert found == {**VALUES, "adapter.max_parameters": "None"}
    assert (2, 0.625) in scalars(tmp_path)["aa"]


# --- MLflow


def test_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MLflow(uri, "orthoplex/default/s")
    for number in (3, 4):
        for each in ROWS:
            tracker.measured(number, VALUES, each)
    tracker.ended(3, VALUES, ROWS[-1])
    tracker.ended(9, VALUES, None)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("orthoplex/default/s")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {"00003": "FINISHED", "00004": "RUNNING"}
    for run in runs.values():
        assert run.data.params == {key: str(value) for key, value in VALUES.items()}
        for name in TAGS:
            history = client.get_metric_history(run.info.run_id, name)
            assert [(metric.step, metric.value) for metric in history] == expected(name)
    assert MLflow(uri, "orthoplex/default/s").experiment == experiment.experiment_id  # a second start goes on there


def test_mlflow_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"tracking\.mlflow: .*pip install 'orthoplex\[mlflow\]'"):
        trackers(sweep_of(tracking={"mlflow": "sqlite:///never.db"}))


def test_mlflow_that_cannot_be_reached() -> None:
    with pytest.raises(ConfigError) as caught:
        trackers(sweep_of(tracking={"mlflow": "nonsense://somewhere"}))
    assert "tracking.mlflow: 'nonsense://somewhere': " in str(caught.value)


# --- what is followed


def test_which_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert trackers(sweep_of()) == []
    (board,) = trackers(sweep_of(tracking={"tensorboard": "~/logs"}, run={"team": "blue"}))
    assert isinstance(board, TensorBoard) and board.folder == tmp_path / "logs/blue/s"


@pytest.mark.parametrize("bwt", [None, -0.1])
def test_figures(bwt: float | None) -> None:
    found = figures(row(2, 0.5, 300, bwt))
    measured = {"aa": 0.5, "parameters": 300.0, "train_s": 20.0, "evaluate_s": 4.0}
    assert found == (measured if bwt is None else {**measured, "bwt": bwt, "forgetting": -bwt})


class Recorder:
    """A tracker that raises in one of its calls."""

    def __init__(self, fails: int = -1) -> None:
        self.told: list[Any] = []
        self.fails = fails

    def measured(self, trial: int, values: dict[str, Any], row: Row) -> None:
        self._told((trial, values, row))

    def ended(self, trial: int, values: dict[str, Any], row: Row | None) -> None:
        self._told((trial, values, row, "ended"))

    def _told(self, what: Any) -> None:
        self.told.append(what)
        if len(self.told) == self.fails:
            raise OSError("the disk is full")


def test_what_tune_reports_is_told() -> None:
    tracker = Recorder()
    following = Tracking([tracker], lambda _: None)
    following.on_trial_result(trial=trial(2), result=trial(2, ROWS[0]).last_result, iteration=1, trials=[])
    following.on_trial_result(trial=trial(2), result={"tasks": 0, "done": True}, iteration=2, trials=[])
    following.on_trial_complete(trial=trial(2, ROWS[0]), iteration=3, trials=[])
    following.on_trial_error(trial=trial(3), iteration=4, trials=[])
    assert tracker.told == [(2, VALUES, ROWS[0]), (2, VALUES, ROWS[0], "ended"), (3, VALUES, None, "ended")]


@pytest.mark.parametrize("fails", [1, 2])
def test_a_tracker_that_raises_is_reported_once_and_left_alone(fails: int) -> None:
    bad, good = Recorder(fails), Recorder()
    said: list[str] = []
    following = Tracking([bad, good], said.append)
    for each in ROWS:
        following.on_trial_result(trial=trial(1), result=trial(1, each).last_result)
    following.on_trial_complete(trial=trial(1, ROWS[-1]))
    assert len(bad.told) == fails and len(good.told) == 3
    (line,) = said
    assert "Recorder" in line and "the disk is full" in line and line.startswith("warning: ")


def test_a_tracker_that_raises_when_nobody_can_be_told() -> None:
    """As with a closed terminal: the sweep goes on."""

    def closed(_: str) -> None:
        raise BrokenPipeError

    following = Tracking([Recorder(1)], closed)
    following.on_trial_result(trial=trial(1), result=trial(1, ROWS[0]).last_result)
    assert following.following == []


def test_tensorboard_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    following = Tracking([TensorBoard(tmp_path / "file" / "logs")], said.append)
    for each in ROWS:
        following.on_trial_result(trial=trial(1), result=trial(1, each).last_result)
    assert len(said) == 1 and "TensorBoard" in said[0]
