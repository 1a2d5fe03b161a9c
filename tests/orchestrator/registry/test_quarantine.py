"""Lists of what is quarantined. How it comes about and is given up: tests/orchestrator/run/test_quarantine.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import open_store
from orchestrator.registry.quarantine import discard, held
from orchestrator.track.track import Track
from tests.support.command_line import here
from tests.support.entries import COMMIT

REASON = "AA of 50.00 points is below guards.min_average_accuracy 0.6 (60.00 points)"
DECISION = {"rule": "guards.min_average_accuracy", "subject": "v1", "measured": 0.5, "bound": 0.6, "verdict": "stop",
            "reason": REASON}  # fmt: skip


@pytest.fixture
def quarantined(fake_run: Any) -> Track:
    run = fake_run("a", "b")
    run.append("quarantine", {**COMMIT, "identity": "i" * 64, "index": 0, "decisions": [DECISION]})
    run.append("stop", {"reason": "stopped by a guard"})
    track: Track = run.track
    return track


def test_lists(
    quarantined: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ("--store", tmp_path / "store")
    code, out, _ = here(monkeypatch, capsys, "adapters", "list", "--quarantined", *store)
    assert code == 0 and out.startswith("default/stream  would be v1  a  ") and out.endswith(f"  x\n  {REASON}\n")
    found = json.loads(here(monkeypatch, capsys, "adapters", "list", "--quarantined", "--json", *store)[1])
    assert [(row["version"], row["reasons"], row["decisions"][0]["seq"]) for row in found] == [(1, [REASON], 3)]
    none = ("--task", "b", "--json")
    assert json.loads(here(monkeypatch, capsys, "adapters", "list", "--quarantined", *none, *store)[1]) == []
    assert "no adapters" in here(monkeypatch, capsys, "adapters", "list", *store)[1]
    assert "would give up" in here(monkeypatch, capsys, "adapters", "gc", "--quarantined", *store)[1]
    assert "gave up" in here(monkeypatch, capsys, "adapters", "gc", "--quarantined", "--yes", *store)[1]
    assert "nothing is quarantined" in here(monkeypatch, capsys, "adapters", "list", "--quarantined", *store)[1]


def test_an_index_does_not_hide_it(quarantined: Track) -> None:
    quarantined.write_index()
    fresh = Track(open_store(quarantined.store.uri), "default", "stream")
    assert [each["version"] for each in held(fresh.store)] == [1] and discard(fresh) == "x"


def test_logs_tell_of_it(
    quarantined: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = here(monkeypatch, capsys, "logs", "stream", "--store", tmp_path / "store")[1]
    assert "a: quarantined, not committed: what would be v1; no figures" in out
    assert f"decided: stop, since {REASON} [guards.min_average_accuracy]" in out
    out = here(monkeypatch, capsys, "status", "stream", "--store", tmp_path / "store")[1]
    assert "quarantined: a, which would be v1" in out
