"""Budgets, occupancy and its forecast, angles."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.blocks import Grid, Picture, Words
from orchestrator.report.layers import angles, budget, layer_sections, occupancy, share_of
from orchestrator.report.source import Source
from orchestrator.run.guards import forecast
from tests.orchestrator.conftest import config_of
from tests.orchestrator.report.conftest import source_of


def filled(fake_run: Any, tmp_path: Path, shares: list[float], **adapter: Any) -> Source:
    """A stream of four tasks, whose layer's read directions fill so much of it."""
    given = {"target_modules": ["dense"], "orthogonality": {"side": "both", "weight": 1.0, "max_occupancy": 0.9}}
    run = fake_run(*"abcd", config=config_of("abcd", adapter={**given, **adapter}, store=str(tmp_path / "store")))
    for share in shares:
        run.commit([0.5] * 4, occupancy={"one": {"written": 0.1, "read": share, "free": 1, "dropped": 0.0}})
    return source_of(tmp_path / "store")


def test_budgets(three: Source) -> None:
    (picture,) = budget(three.state)
    assert isinstance(picture, Picture) and picture.table
    assert picture.table.heads == ["module", "a", "b", "c"] and picture.table.rows[0][1] == "1/2"
    assert "On average 50% of r_max was kept" in picture.says and "1/2</text>" in picture.svg
    assert share_of([(1, 2), (3, 4)]) == pytest.approx(4 / 6) and share_of([]) is None


def test_occupancy_and_forecast(fake_run: Any, tmp_path: Path, drawn: None) -> None:
    source = filled(fake_run, tmp_path, [0.3, 0.6])
    picture, words, grid = occupancy(source)
    assert isinstance(picture, Picture) and isinstance(words, Words) and isinstance(grid, Grid) and source.config
    assert picture.table and picture.table.rows == [["a", "30.0", "10.0"], ["b", "60.0", "10.0"]]
    (told,) = forecast(source.config.adapter.protection, source.state, 2)
    assert words.lines[0] == told.reason and "room for 1.0" in words.lines[1]
    assert grid.rows[0] == ["one", "read", "60.0", "1.0"]
    assert "stroke-dasharray" in picture.svg


def test_nothing_that_fills_up(fake_run: Any, tmp_path: Path, drawn: None) -> None:
    source = filled(fake_run, tmp_path, [0.3], orthogonality={"side": "none"})
    *_, words = occupancy(source)
    assert words == Words(["Adapters are kept out of no basis, so none can be full."])


def test_angles(three: Source) -> None:
    (picture,) = angles(three)
    assert isinstance(picture, Picture) and picture.table
    assert picture.table.rows == [["b", "90.0 / 90.0", "·"], ["c", "90.0 / 90.0", "90.0 / 90.0"]]
    assert picture.svg.count("90°</text>") == 3


def test_sections_of_another_method_say_that_there_is_nothing(fake_run: Any, tmp_path: Path) -> None:
    lora = {"method": "lora", "target_modules": ["dense"]}
    fake_run("a", config=config_of("a", adapter=lora, store=str(tmp_path / "store")))
    found = [*layer_sections(source_of(tmp_path / "store"))]
    assert [section.blocks for section in found] == [[], [], []] and all(section.nothing for section in found)
