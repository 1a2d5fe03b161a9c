"""What does not say what it should is a fault, a line each; other files and entries are judged all the same."""

from pathlib import Path

import pytest

from orchestrator.log.event import Index
from orchestrator.registry.verify import Report, verify
from orchestrator.track.track import Track
from tests.support.entries import COMMIT, Raw
from tests.support.registries import track_with


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return track_with(2, tmp_path)


def test_all_is_well(track: Track) -> None:
    assert verify(track) == Report(track="team/stream", entries=2, versions=2, files=4, bytes=320)


def test_a_commit_of_what_gc_had_taken(track: Track) -> None:
    track.append(Raw("abort", {"prefixes": ["x"]}), after=track.head())
    track.append(Raw("commit", {**COMMIT, "prefix": "x"}), after=track.head())
    report = verify(track)
    assert len(report.faults) == 1 and "names files that gc had collected; it does not count" in report.faults[0]
    assert report.versions == 2


@pytest.mark.parametrize("upto", [0, 3, 9])
def test_an_index_of_no_entries(track: Track, upto: int) -> None:
    track.append(Index(upto=upto, index_sha256="0" * 64), after=track.head())
    (fault,) = verify(track).faults
    assert fault.startswith("entry 3 (index, ") and "does not say which entries" in fault


def test_a_malformed_body_is_one_fault(track: Track) -> None:
    track.append(Raw("commit", {"prefix": "x"}), after=track.head())
    report = verify(track)
    assert len(report.faults) == 1 and report.versions == 0
    assert "entry 3 (t/team/stream/log/0999999997.json) is malformed: commit: task: field required" in report.faults[0]
