"""A registry on a store that exists only in tests: nothing but the seam is asked of a store."""

import json
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.doctor.gather import gather_store
from orchestrator.registry.aliases import promote
from orchestrator.registry.catalog import listed
from orchestrator.registry.gc import Collector
from orchestrator.registry.pull import pull
from orchestrator.registry.references import resolve
from orchestrator.registry.verify import verify
from tests.support.memory_store import MemoryStore, with_memory
from tests.support.registries import publish_one, read_everything, stream_of, track_with


@pytest.fixture
def uri(monkeypatch: pytest.MonkeyPatch) -> str:
    with_memory(monkeypatch.setitem)
    return f"memory://{uuid.uuid4().hex}"


def test_published_promoted_pulled_verified_and_collected(uri: str, tmp_path: Path) -> None:
    track = track_with(2, tmp_path, uri)
    assert isinstance(track.store, MemoryStore)
    promote(track, 1, "production")
    assert [row["aliases"] for row in listed(track.store)] == [["production"], []]
    found = resolve(track.store, "team/stream@production")
    size = pull(found.track, {"": found.commit}, tmp_path / "pulled")
    first, _ = read_everything(track.store)
    assert size == sum(map(len, first.values()))
    assert {path: (tmp_path / "pulled" / path).read_bytes() for path in first} == first
    assert verify(track).faults == [] and verify(track).versions == 2
    orphan = f"{track.fresh_prefix()}/file"
    track.store.put(orphan, b"")
    Collector(track, timedelta()).collect()
    assert orphan not in track.store.list("") and len(read_everything(track.store)) == 2
    key = f"{found.commit.prefix}/adapter.safetensors"
    track.store.put(key, b"x")
    assert [fault for fault in verify(track).faults if "adapter.safetensors" in fault]


def test_an_index_and_what_follows_it(uri: str, tmp_path: Path) -> None:
    track = track_with(3, tmp_path, uri)
    track.write_index()
    publish_one(track, tmp_path, "later")
    assert [row["version"] for row in listed(stream_of(uri).store)] == [1, 2, 3, 4]


def test_the_command_line_and_the_doctor(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.cli.main import app

    track_with(1, tmp_path, uri)
    app(["adapters", "list", "--json", "--store", uri], standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["ref"] == "team/stream@v1"
    facts = gather_store(uri)
    assert facts.error is None and facts.clock is None  # a clock is a matter of folders and S3
