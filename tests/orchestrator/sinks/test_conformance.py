"""What every sink does, read back with its maker's own reader; and that none can stop what it follows."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from orchestrator.sinks.base import Sink, Sinks, Status, Tracked
from orchestrator.sinks.jsonl import JsonLines
from orchestrator.sinks.mlflow import MLflow
from orchestrator.sinks.tensorboard import TensorBoard
from tests.support.raising import Raising

Points = dict[str, list[tuple[int, float]]]
PARAMETERS = {"adapter.threshold": 0.25, "adapter.history": "folded", "train.compile": False, "data_dir": None}
RUN = Tracked(store="/s/one", team="blue", name="r", parameters=PARAMETERS)
STATUSES: tuple[Status, ...] = ("finished", "stopped", "interrupted", "failed")


@dataclass
class Found:
    """What stands there of one run: figures by name, or name/task; parameters as strings; how it ended."""

    points: Points = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    status: Status | str | None = None

    def add(self, name: str, task: str | None, step: int, value: float) -> None:
        self.points.setdefault(f"{name}/{task}" if task else name, []).append((step, value))


class Place(Protocol):
    """Somewhere a kind of sink writes to."""

    def sink(self) -> Sink: ...
    def read(self) -> dict[str, Found]:
        """All runs that are there, by their group and name."""


@dataclass
class Board:
    folder: Path

    def sink(self) -> Sink:
        return TensorBoard(self.folder)

    def read(self) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for path in sorted(self.folder.rglob("events.out.*"), key=lambda path: next(events(path)).wall_time):
            place = path.parent.relative_to(self.folder)
            run = found.setdefault(str(place.parent if place.name == "point" else place), Found())
            for event in events(path):
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "hparams":
                        start = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
                        shown = {key: str(getattr(v, v.WhichOneof("kind"))) for key, v in start.hparams.items()}
                        run.parameters |= shown
                    elif value.tag.startswith("status"):
                        run.status = value.tensor.string_val[0].decode()
                    elif value.WhichOneof("value") == "simple_value" and place.name != "point":
                        run.add(value.tag, None, event.step, value.simple_value)
        return found


def events(path: Path) -> Iterator[Event]:
    """The records of an event file: length (8 bytes, little-endian), its checksum (4), data, its checksum (4)."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


@dataclass
class Server:
    uri: str

    def sink(self) -> Sink:
        return MLflow(self.uri)

    def read(self) -> dict[str, Found]:
        from mlflow import MlflowClient

        client, found = MlflowClient(tracking_uri=self.uri), dict[str, Found]()
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id]):
                ours = {name: status for status, name in TO_MLFLOW.items()}
                made = Found(parameters=run.data.params, status=ours.get(run.info.status))
                for name in run.data.metrics:
                    for metric in client.get_metric_history(run.info.run_id, name):
                        made.add(name, None, metric.step, metric.value)
                place = f"{experiment.name.removeprefix('orthoplex/')}/{run.info.run_name}"
                assert place not in found, "a second run where there should be one"
                found[place] = made
        return found


TO_MLFLOW = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


@dataclass
class Lines:
    path: Path

    def sink(self) -> Sink:
        return JsonLines(self.path)

    def read(self) -> dict[str, Found]:
        found: dict[str, Found] = {}
        places: dict[str, str] = {}
        for line in map(json.loads, self.path.read_text("utf-8").splitlines()):
            team, _, name = line["run"].partition("/")
            if line["event"] == "start":
                places[line["run"]] = "/".join(filter(None, (team, line["sweep"], name)))
            run = found.setdefault(places[line["run"]], Found())
            if line["event"] == "start":
                run.parameters = {key: str(value) for key, value in line["parameters"].items()}
            for name, value in line.get("values", {}).items():
                run.add(name, line["task"], line["step"], value)
            run.status = line.get("status", None)
        return found


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, which take seconds to make; empty otherwise."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(params=["tensorboard", "mlflow", "jsonl"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "mlflow":
        copy = tmp_path / "mlflow.db"
        copy.write_bytes(request.getfixturevalue("database").read_bytes())
        return Server(f"sqlite:///{copy}")
    return Board(tmp_path / "logs") if request.param == "tensorboard" else Lines(tmp_path / "new" / "log.jsonl")


def follow(place: Place, run: Tracked, steps: Sequence[int], status: Status | None = "finished") -> None:
    """One start of the command that follows the run at these steps."""
    sink = place.sink()
    sink.start(run)
    for step in steps:
        sink.log({"loss": 1 / step, "overlap": 0.25}, step=step, task="a_task")
        sink.log({"aa": step / 8}, step=step)
    if status:
        sink.end(status, {"aa": steps[-1] / 8} if steps else {})
    elif isinstance(sink, TensorBoard):
        sink.writer.close()  # all that it wrote before it was killed


def test_a_run_is_all_there(place: Place) -> None:
    follow(place, RUN, [1, 2, 4])
    (found,) = place.read().values()
    steps = (1, 2, 4)
    assert found.points["loss/a_task"] == [(step, 1 / step) for step in steps]
    assert found.points["overlap/a_task"] == [(step, 0.25) for step in steps]
    assert set(found.points["aa"]) == {(step, step / 8) for step in steps} and len(found.points) == 3
    shown = {key: str(value) for key, value in PARAMETERS.items()}
    assert {key: found.parameters[key] for key in shown} == shown or isinstance(place, Board)
    assert found.parameters.keys() == PARAMETERS.keys()
    assert found.status == "finished"


@pytest.mark.parametrize("status", STATUSES)
def test_how_it_ended(place: Place, status: Status) -> None:
    follow(place, RUN, [1], status)
    (found,) = place.read().values()
    seen = "stopped" if status == "interrupted" and isinstance(place, Server) else status
    assert found.status == seen


@pytest.mark.parametrize("left", [None, "interrupted", "failed"])
def test_a_run_that_goes_on_has_one_place(place: Place, left: Status | None) -> None:
    """Also one whose driver was killed, and one whose harmless settings are others now."""
    follow(place, RUN, [1], left)
    other = replace(RUN, parameters={**PARAMETERS, "adapter.threshold": 0.5, "new": 1})
    sink = place.sink()
    sink.start(other)
    if not isinstance(place, Board):  # its files are read while they are written
        (found,) = place.read().values()
        assert found.status is None
    sink.log({"aa": 0.25}, step=2)
    sink.end("finished", {"aa": 0.25})
    (found,) = place.read().values()
    assert set(found.points["aa"]) == {(1, 0.125), (2, 0.25)} and found.status == "finished"
    assert "new" in found.parameters


def test_runs_are_kept_apart(place: Place) -> None:
    """By team, name, and the sweep that a trial belongs to."""
    trial = replace(RUN, name="s-00001", sweep="s")
    for run in (RUN, replace(RUN, team="red"), replace(RUN, name="r2"), trial):
        follow(place, run, [2])
    assert sorted(place.read()) == ["blue/r", "blue/r2", "blue/s/s-00001", "red/r"]


@pytest.mark.parametrize("name", ["a/b", "../x", ".", "größe: 1", "x" * 90])
def test_any_name_of_a_task(place: Place, name: str) -> None:
    sink = place.sink()
    sink.start(RUN)
    sink.log({"loss": 0.5}, step=1, task=name)
    sink.end("finished", {})
    (found,) = place.read().values()
    assert list(found.points.values()) == [[(1, 0.5)]]


def test_many_and_long_parameters(place: Place) -> None:
    many = {f"adapter.rank_pattern.(k{index}|v)": "x" * 7000 for index in range(130)}
    follow(place, replace(RUN, parameters=many), [1])
    (found,) = place.read().values()
    assert len(found.parameters) == 130


def test_nothing_to_end(place: Place) -> None:
    """A run that ended before anything was measured."""
    follow(place, RUN, [], "failed")
    (found,) = place.read().values()
    assert found.status == "failed" and found.points == {}


def test_another_store_has_runs_of_its_own(database: Path, tmp_path: Path) -> None:
    """In MLflow, which teams share."""
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(database.read_bytes())
    place = Server(f"sqlite:///{copy}")
    follow(place, replace(RUN, name="it's"), [1])
    follow(place, replace(RUN, name="it's", store="/s/two"), [2])
    with pytest.raises(AssertionError, match="a second run"):
        place.read()


# --- a sink that raises


@pytest.mark.parametrize("at", ["start", "log", "end"])
def test_a_sink_that_raises_is_left_out_and_named_once(tmp_path: Path, at: str) -> None:
    said: list[str] = []
    good, bad = Lines(tmp_path / "log.jsonl"), Raising(at)
    sinks = Sinks({"mlflow": lambda: bad, "jsonl": good.sink}, said.append)
    for name in ("r", "r2"):
        following = sinks.start(replace(RUN, name=name))
        for step in (1, 2):
            following.log({"aa": step / 8}, step=step)
        following.end("finished", {})
    assert bad.told == ["start", "log", "log", "end"][: ["start", "log", "end"].index(at) + (2 if at == "end" else 1)]
    assert said == ["warning: tracking.mlflow is left out from now on: OSError: the disk is full"]
    assert {name: found.status for name, found in good.read().items()} == {"blue/r": "finished", "blue/r2": "finished"}


def test_a_warning_that_nobody_can_read() -> None:
    """As with a closed terminal: the run goes on."""

    def closed(_: str) -> None:
        raise BrokenPipeError

    sinks = Sinks({"jsonl": lambda: Raising("start")}, closed)
    sinks.start(RUN).log({"aa": 1.0}, step=1)
    assert sinks.makers == {}


@pytest.mark.parametrize("kind", ["tensorboard", "jsonl"])
def test_where_nothing_can_be_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    makers: Mapping[str, Callable[[], Sink]] = {
        "tensorboard": lambda: TensorBoard(tmp_path / "file" / "logs"),
        "jsonl": lambda: JsonLines(tmp_path / "file" / "log.jsonl"),
    }
    said: list[str] = []
    following = Sinks({kind: makers[kind]}, said.append).start(RUN)
    following.log({"aa": 1.0}, step=1)
    assert len(said) == 1 and f"tracking.{kind}" in said[0]


def test_a_server_that_is_away() -> None:
    """One warning, within seconds."""
    said: list[str] = []
    Sinks({"mlflow": lambda: MLflow("http://127.0.0.1:9")}, said.append).start(RUN).log({"aa": 1.0}, step=1)
    assert len(said) == 1 and "tracking.mlflow" in said[0]


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    place = Lines(tmp_path / "log.jsonl")
    following = Sinks({"jsonl": place.sink}, print).start(RUN)
    following.log({"loss": float("nan"), "penalty": float("inf"), "bwt": None, "aa": 0.5}, step=1)
    following.log({"loss": float("nan")}, step=2)
    following.end("failed", {"bwt": None, "aa": float("-inf")})
    assert place.read()["blue/r"].points == {"aa": [(1, 0.5)]}
    assert json.loads(place.path.read_text().splitlines()[-1])["summary"] == {}
