"""Recorded scores in a report."""

from collections.abc import Sequence
from typing import Any

from orchestrator.console.followed.trend import lines_of, table_of
from orchestrator.delivery.repertoire import version_of
from orchestrator.followed.recording import record
from orchestrator.followed.records import records_of
from orchestrator.followed.trend import trend
from orchestrator.report.blocks import Picture, grid_of
from orchestrator.report.later import later_sections
from orchestrator.report.source import Source
from tests.orchestrator.followed.conftest import evaluated


def recorded(source: Source, *scores: Sequence[float], **how: Any) -> None:
    version = version_of(source.track.store, "default/stream@v3")
    for values in scores:
        record(version, evaluated(values, **how), asked="v3", files={}, settings={}, seconds=1.0, note="")


def test_what_trend_prints(three: Source) -> None:
    recorded(three, [1] * 90 + [0] * 10, [1] * 40 + [0] * 60)
    (section,) = later_sections(three)
    (picture,) = section.blocks
    (series,) = trend(records_of(three.track))
    assert isinstance(picture, Picture) and picture.table == grid_of(table_of(series), folded=True)
    assert picture.says == "; ".join(lines_of(series)) and "drift" in picture.says and "points</text>" in picture.svg


def test_one_score_is_a_row(three: Source) -> None:
    recorded(three, [1, 0], loss=True)
    (section,) = later_sections(three)
    table: Any
    table, words = section.blocks
    assert len(table.rows) == 1 and not table.folded and "no trend yet" in words.lines[0]


def test_nothing_recorded_and_damage(three: Source) -> None:
    (section,) = later_sections(three)
    assert section.blocks == [] and "--record" in section.nothing
