"""Places that sinks write to, each read back with its maker's own reader."""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from orchestrator.sinks.base import Sink, Status, Tracked
from orchestrator.sinks.jsonl import JsonLines
from orchestrator.sinks.mlflow import MLflow
from orchestrator.sinks.tensorboard import TensorBoard

Points = dict[str, list[tuple[int, float]]]
PARAMETERS = {"adapter.threshold": 0.25, "adapter.history": "folded", "train.compile": False, "data_dir": None}
RUN = Tracked(store="/s/one", team="blue", name="r", parameters=PARAMETERS)


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
