"""What every sink does, read back with its maker's own reader."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.sinks.base import Sink, Sinks, Status
from orchestrator.sinks.jsonl import JsonLines
from orchestrator.sinks.tensorboard import TensorBoard
from tests.support.kept_sink import Shelf
from tests.support.places import PARAMETERS, RUN, Board, Lines, Place, Server, follow

STATUSES: tuple[Status, ...] = ("finished", "stopped", "interrupted", "failed")


@pytest.fixture(params=["tensorboard", "mlflow", "jsonl", "kept"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "mlflow":
        copy = tmp_path / "mlflow.db"
        copy.write_bytes(request.getfixturevalue("database").read_bytes())
        return Server(f"sqlite:///{copy}")
    if request.param == "kept":
        return Shelf()
    return Board(tmp_path / "logs") if request.param == "tensorboard" else Lines(tmp_path / "new" / "log.jsonl")


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
