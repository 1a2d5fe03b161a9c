"""What is listed of a log, be it read from the log itself or from its index."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.log import index
from orchestrator.log.entry import Entry
from orchestrator.registry.aliases import promote
from orchestrator.registry.catalog import Listed, rows, rows_of, standing
from orchestrator.track.scores import scores_tested
from orchestrator.track.track import COLUMNS
from tests.support.registries import track_with


def test_a_row(tmp_path: Path) -> None:
    track = track_with(2, tmp_path)
    seq = promote(track, 2, "production").seq
    first, second = rows_of(track.label, track.entries())
    commit = track.entries()[1]
    assert second == {
        "ref": "team/stream@v2", "name": "team/stream", "version": 2, "aliases": ["production"],
        "alias_revisions": {"production": seq}, "task": "a", "average_accuracy": None, "average_nll": None,
        "active_parameters": 10, "stored_bytes": 160, "overlap": 0.0, "location": commit.body["prefix"],
        "committed_at": commit.time,
    }  # fmt: skip
    assert (first["version"], first["aliases"]) == (1, [])


def test_an_index_lists_as_the_log_does(tmp_path: Path) -> None:
    track = track_with(3, tmp_path)
    promote(track, 2, "production")
    entries = track.entries()
    for split in range(1, len(entries) + 1):
        below = index.brief(index.encode(entries[:split], COLUMNS), COLUMNS)
        assert [*rows(track.label, below, entries[split:])] == rows_of(track.label, entries)
    assert Listed._fields[2:] == (*COLUMNS.of_row, "tested")


def test_accuracy_is_that_of_the_tasks_so_far_whether_indexed_or_not(fake_run: Callable[..., Any]) -> None:
    """The first commit of a run is tested on later tasks too; they do not count."""
    run = fake_run("a", "b")
    run.commit([0.9, 0.2], [0.8, 0.25])
    run.commit([0.7, 0.6], [0.7, 0.5])
    entries = run.track.entries()
    below = index.brief(index.encode(entries, COLUMNS), COLUMNS)
    for found in (rows_of("t/x", entries), [*rows("t/x", below, [])]):
        assert [row["average_accuracy"] for row in found] == pytest.approx([0.8, 0.6])
    assert run.state.metrics("test")["aa"] == found[-1]["average_accuracy"]


@pytest.mark.parametrize("test", ["null", "[1]", '[{"correct": "x", "rows": 1}]', '[{"correct": 0, "rows": 0}]', "{"])
def test_scores_that_are_none_are_not_measured(test: str) -> None:
    assert scores_tested(b'{"task": "\\ud800", "test": [{"correct": 1, "rows": 4, "more": "x"}]}') == [(0.25, None)]
    assert scores_tested(f'{{"test": {test}}}'.encode()) == []


def test_what_was_aborted_before_or_deleted_does_not_stand() -> None:
    commits = [Listed(seq, "", seq, "a", None, 1, None, prefix) for seq, prefix in ((2, "x"), (4, "y"), (5, "z"))]
    entries = [
        Entry(1, "", "", "", "", "abort", {"prefixes": ["x"]}, "1"),
        Entry(6, "", "", "", "", "abort", {"prefixes": ["y"]}, "6"),
        Entry(7, "", "", "", "", "delete", {"prefixes": ["z"], "versions": [5]}, "7"),
    ]
    assert [commit.version for commit in standing(commits, entries)] == [4]
