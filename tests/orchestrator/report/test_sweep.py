"""The report of a sweep."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.storage import open_store
from orchestrator.report.blocks import Grid, Picture, Section, Words
from orchestrator.report.sweep import recommended, stored_config, sweep_page, trials
from orchestrator.sweeps.events import Chosen
from orchestrator.sweeps.sweep_state import sweep_log
from tests.support.begun_sweeps import TRIALS_DONE, begun
from tests.support.sweeps import finished, in_store, state_of


def test_a_sweep(tmp_path: Path, drawn: None) -> None:
    config = in_store(str(tmp_path))
    begun(config, TRIALS_DONE)
    store = open_store(str(tmp_path))
    page = sweep_page(store, sweep_log(store, "default", "s"))
    found: dict[str, Section] = {section.name: section for section in page.sections}
    assert (page.title, page.status, page.lines[0]) == (
        "default/s", "finished", "Trials: 2 finished, 1 stopped, 1 failed.",
    )  # fmt: skip
    (picture,) = found["front"].blocks
    assert isinstance(picture, Picture) and "3 (1)</text>" in picture.svg
    table, why = found["trials"].blocks
    assert isinstance(table, Grid) and len(table.rows) == 4 and isinstance(why, Grid)
    assert ["4", "failed", "the loss is nan"] in why.rows
    assert found["recommended"].blocks == [] and found["recommended"].nothing
    (runs,) = found["lineage"].blocks
    assert isinstance(runs, Grid) and ["trial 2", "the run default/s-00002"] in runs.rows


def test_what_is_recommended(tmp_path: Path) -> None:
    store, config = open_store(str(tmp_path)), in_store(str(tmp_path))
    state = state_of(
        finished(7, 0.9, 400), choice=Chosen(pareto=(7,), recommended=7, reason="it is <best>"), status="finished"
    )
    assert [*recommended(store, state)] == [Words(["Trial 7 (threshold 0.07): it is <best>."])]
    (table,) = trials(config, state)
    assert isinstance(table, Grid) and table.rows[0][0] == "7 *"
    none = state_of(choice=Chosen(pareto=(), reason="none meets the bounds"))
    assert [*recommended(store, none)] == [Words(["No trial is recommended: none meets the bounds."])]


def test_a_configuration_of_a_newer_version() -> None:
    with pytest.raises(ConfigError, match="team/s: its configuration cannot be read"):
        stored_config("team/s", state_of(config={"name": "s", "later": 1}))
