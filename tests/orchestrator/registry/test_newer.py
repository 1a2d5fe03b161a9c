"""Entries of a newer Orthoplex: readers leave them out and say so, whoever writes on top of them refuses."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.errors import ConfigError, StoreError
from orchestrator import load
from orchestrator.registry.aliases import promote, rollback
from orchestrator.registry.gc import Collector
from orchestrator.registry.publish import publish
from orchestrator.registry.verify import verify
from orchestrator.run.driver_log import DriverLog, RunLog
from orchestrator.sweeps.events import KNOWN
from orchestrator.sweeps.sweep_state import replay_sweep, sweep_log
from orchestrator.track.track import Track
from orthoplex import Predictor, Registry, status
from tests.support.command_line import here
from tests.support.entries import Raw
from tests.support.registries import LEARNED, make_files, track_with

REFUSED = r"team/stream: entry 3 \(tag\) was written by a newer Orthoplex; upgrade"
LEFT_OUT = "note: team/stream: entries of a newer Orthoplex are left out (tag ×2); upgrade to see them"


@pytest.fixture
def track(tmp_path: Path) -> Track:
    """Two versions, and two entries whose operation nobody knows here."""
    made = track_with(2, tmp_path)
    for number in range(2):
        made.append(Raw("tag", {"number": number, "version": 1, "prefix": "x"}), after=made.head())
    return made


def test_readers_leave_them_out_and_say_so(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs = (
        ("status", "stream"), ("adapters", "list"), ("adapters", "show", "stream@v1"), ("adapters", "verify"),
        ("explain", "stream"),
    )  # fmt: skip
    for verb in verbs:
        code, out, err = here(monkeypatch, capsys, *verb, "--json", "--store", tmp_path / "store")
        assert (code, err.splitlines()) == (0, [LEFT_OUT]), verb
        assert json.loads(out)
    report = verify(track)
    assert (report.faults, report.versions, report.entries) == ([], 2, 4) and len(report.notes) == 1


def test_readers_in_python_warn(track: Track, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    registry = Registry(store)
    for read in (
        lambda: status("stream", store=store), lambda: registry.find("stream@v1"), registry.list,
    ):  # fmt: skip
        with pytest.warns(UserWarning, match=rf"^{re.escape(LEFT_OUT.removeprefix('note: '))}$"):
            read()
    for use in (lambda: load("stream@v1", store=store), lambda: Predictor("stream@v1", store=store)):
        with (
            pytest.warns(UserWarning, match="entries of a newer Orthoplex are left out"),
            pytest.raises(ConfigError, match="holds no configuration"),
        ):
            use()


def test_an_index_keeps_them(track: Track, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.registry.catalog import listed

    track.write_index()
    said = list[str]()
    assert [row["version"] for row in listed(track.store, note=said.append)] == [1, 2]
    assert [f"note: {line}" for line in said] == [LEFT_OUT] and verify(track).faults == []


def test_promotion_refuses(track: Track) -> None:
    with pytest.raises(StoreError, match=REFUSED):
        promote(track, 1, "production")
    with pytest.raises(StoreError, match=REFUSED):
        rollback(track, "production")
    assert len(track.entries()) == 4


def test_gc_refuses(track: Track) -> None:
    track.store.put(f"{track.fresh_prefix()}/file", b"of the newer version, for all that is known here")
    collector = Collector(track, timedelta(0))
    for act in (collector.look, collector.collect, lambda: collector.delete(2, ""), lambda: collector.doomed(2)):
        with pytest.raises(StoreError, match=REFUSED):
            act()
    assert len(track.entries()) == 4


def test_drivers_refuse(track: Track) -> None:
    log = RunLog(track)
    with pytest.raises(StoreError, match=REFUSED):
        log.take({}, 120, lambda _: None)
    sweep = sweep_log(track.store, "team", "s")
    sweep.append(Raw("tag"), after=None)
    with pytest.raises(StoreError, match=r"team/s: entry 1 \(tag\) was written by a newer"):
        DriverLog(sweep, replay_sweep, "sweep", KNOWN).take({}, 120, lambda _: None)
    assert len(track.entries()) == 4 and len(sweep.entries()) == 1


def test_publishing_goes_on(track: Track, tmp_path: Path) -> None:
    """It adds a version, and touches nothing of what is there."""
    assert publish(track, make_files(tmp_path, 3), LEARNED, {}).body["version"] == 3
