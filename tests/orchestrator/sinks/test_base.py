"""A sink that raises is left out, named once, and stops nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.sinks.base import Sinks
from tests.support.places import RUN, Lines
from tests.support.raising import Raising


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


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    place = Lines(tmp_path / "log.jsonl")
    following = Sinks({"jsonl": place.sink}, print).start(RUN)
    following.log({"loss": float("nan"), "penalty": float("inf"), "bwt": None, "aa": 0.5}, step=1)
    following.log({"loss": float("nan")}, step=2)
    following.end("failed", {"bwt": None, "aa": float("-inf")})
    assert place.read()["blue/r"].points == {"aa": [(1, 0.5)]}
    assert json.loads(place.path.read_text().splitlines()[-1])["summary"] == {}
