"""Recorded scores stand in a log of their own: checked, signed, verified, and no hindrance to a driver."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import ConfigError, IntegrityError
from orchestrator.followed.recording import check_can_record
from orchestrator.followed.records import RecordLog, records_of, verify_records
from orchestrator.followed.trend import trend
from orchestrator.registry.aliases import promote
from orchestrator.registry.references import Version
from orchestrator.track.layout import list_tracks
from orchestrator.track.rules import KeyRule, RulesLog, TeamRules
from orchestrator.track.track import Track, trusting_what_is_there
from tests.support.entries import Raw
from tests.support.keys import public_pem, sign_with
from trainers.data.row_scores import RowScores

BITS = [1, 0, 1, 1, 0, 1]


def test_a_record_says_what_was_scored_and_keeps_each_row(version: Version, recorder: Any) -> None:
    entry = recorder(BITS, note="weekly")
    log = records_of(version.track)
    ((again, record),) = log.records()
    assert again == entry and record.score == pytest.approx(4 / 6) and record.interval is not None
    assert (record.reference, record.version, record.asked) == ("default/stream@v2", 2, "production")
    assert record.manifest_sha256 == version.commit.manifest_sha256 and record.note == "weekly"
    assert record.files == {"a.csv": "f" * 64} and "torch" in record.packages and record.settings == {}
    assert np.array_equal(log.values(record), BITS)
    assert log.label == "default/stream records" and list_tracks(log.store) == [("default", "stream")]


def test_the_track_is_left_alone(version: Version, recorder: Any) -> None:
    """The log that a driver holds has the same head, so the driver's next entry lands."""
    before = version.track.entries()
    recorder(BITS), recorder(BITS)
    assert version.track.entries() == before and len(records_of(version.track).records()) == 2


def test_two_writers_lose_nothing(version: Version, recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has read the log before another wrote lands on top of it."""
    real, between = RecordLog.entries, [True]

    def slow(log: RecordLog) -> Any:
        found = real(log)
        if between:
            between.pop()
            recorder(BITS, task="b")
        return found

    monkeypatch.setattr(RecordLog, "entries", slow)
    recorder(BITS, task="a")
    assert [record.task for _, record in records_of(version.track).records()] == ["b", "a"]


def test_verify_finds_what_is_lost_or_changed(version: Version, recorder: Any) -> None:
    recorder(BITS), recorder([*BITS, 1]), recorder(BITS)
    log = records_of(version.track)
    report = verify_records(log)
    assert (report.entries, report.files, report.faults) == (3, 2, []) and report.bytes > 0
    (_, first), (_, second), _ = log.records()
    root = Path(log.store.uri.removeprefix("file://"))
    (root / first.prefix / "rows.parquet").write_bytes(b"other")
    (root / second.prefix / "rows.parquet").unlink()
    found = verify_records(log).faults
    assert len(found) == 2 and "was changed" in found[0] and "is missing" in found[1]
    with pytest.raises(IntegrityError, match="was changed"):
        log.values(first)
    astray = first.model_copy(update={"prefix": "t/other/run/v/1"})
    with pytest.raises(IntegrityError, match="which is not in it"):
        log.values(astray)
    (root / log._key(2)).write_bytes((root / log._key(1)).read_bytes())
    assert "says that it is entry 1" in verify_records(records_of(version.track)).faults[0]


def test_signed_records(version: Version, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `evaluator` may record and write nothing else; what was recorded before signatures were asked for stands."""
    recorder(BITS)
    store, team = version.track.store, version.track.team
    for name in ("ann", "eve", "mallory"):
        sign_with(tmp_path / name, monkeypatch)
    keys = {
        "ann": KeyRule(public_key=public_pem(tmp_path / "ann")),
        "eve": KeyRule(public_key=public_pem(tmp_path / "eve"), roles=("evaluator",)),
    }
    rules = trusting_what_is_there(store, team, TeamRules(), TeamRules(signatures="required", keys=keys))
    assert {*rules.unsigned} == {"stream", "stream records"}
    sign_with(tmp_path / "ann", monkeypatch)
    RulesLog(store, team).change(rules, expect=0, why="")
    monkeypatch.delenv("ORTHOPLEX_SIGNING_KEY_FILE")
    with pytest.raises(ConfigError, match="no key that they list"):
        check_can_record(version.track, "")
    with pytest.raises(ConfigError, match="is not signed"):
        recorder(BITS)
    sign_with(tmp_path / "mallory", monkeypatch)
    with pytest.raises(ConfigError, match="no key that they list"):
        check_can_record(version.track, "")
    sign_with(tmp_path / "eve", monkeypatch)
    check_can_record(version.track, "")
    assert recorder(BITS).signature is not None
    assert len(records_of(version.track).records()) == 2 and verify_records(records_of(version.track)).faults == []
    with pytest.raises(ConfigError, match="eve, who is not a promoter"):
        promote(Track(store, team, "stream"), 1, "production")
    root = Path(store.uri.removeprefix("file://"))
    for path in (root / records_of(version.track).root / "log").iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match=r"stream records ends before entry 1.*unsigned.stream records"):
        records_of(version.track).records()


def test_a_long_note_is_refused_before_anything_is_computed(version: Version) -> None:
    with pytest.raises(ConfigError, match="--note: has 1,001 characters"):
        check_can_record(version.track, "x" * 1001)


def test_a_newer_orthoplex_may_add_keys_and_operations(version: Version, recorder: Any) -> None:
    recorder(BITS)
    log = records_of(version.track)
    ((_, record),) = log.records()
    log.append(Raw("record", {**record.body(), "weather": "fine"}), after=log.head())
    log.append(Raw("withdraw", {"entry": 1}), after=log.head())
    assert len(log.records()) == 2 and "withdraw" in verify_records(log).notes[0]
    broken = {key: value for key, value in record.body().items() if key != "rows_sha256"}
    log.append(Raw("record", broken), after=log.head())
    with pytest.raises(IntegrityError, match="rows_sha256"):
        log.records()
    assert dataclasses.asdict(verify_records(log))["faults"]


@pytest.mark.parametrize("values", [[1, float("nan"), 0], [1, 7, 0], [1, 0]])
def test_scores_that_are_none_are_refused(version: Version, recorder: Any, values: list[float]) -> None:
    """Any key may record, so that what it recorded is not believed."""
    recorder([1, 0, 1])
    log = records_of(version.track)
    scores = RowScores(task="a", split="recorded", learned=2, rows=np.arange(len(values)), values=np.array(values))
    ((_, good),) = log.records()
    told = {key: good.body()[key] for key in ("metric", "metrics", "rows_sha256", "files")}
    log.add(version, scores, {**told, "rows": 3})
    with pytest.raises(IntegrityError, match="does not hold 3 scores from 0 to 1"):
        trend(log)
    with pytest.raises(ValueError, match="metric: 'f1' is not among the metrics"):
        log.add(version, scores, {**told, "metric": "f1"})


def test_fewer_rows_of_the_same_digest_are_no_pairs(version: Version, recorder: Any) -> None:
    recorder([1, 0, 1]), recorder([1, 0])
    (series,) = trend(records_of(version.track))
    assert series.points[1].first is not None and not series.points[1].first.change.paired
