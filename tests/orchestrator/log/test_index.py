"""An index says what the log says, counts only where the log names it, and spares reading the log again."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import IntegrityError
from orchestrator.log import chain as log
from orchestrator.log import index
from orchestrator.log.event import Index
from orchestrator.registry.aliases import promote
from orchestrator.registry.catalog import rows, rows_of
from orchestrator.registry.verify import verify
from orchestrator.track.events import COLUMNS, Commit
from orchestrator.track.moves import aliases
from orchestrator.track.track import Track, list_tracks
from tests.support.registries import BODY, folder_track, publish_one


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Track:
    """23 versions and an alias; an index after entries 10 and 20."""
    monkeypatch.setattr(log, "INDEX_EVERY", 10)
    made = folder_track(tmp_path / "store")
    for number in range(23):
        publish_one(made, tmp_path, number)
        if number == 4:
            promote(made, 3, "production", why="best")
    return made


def gets(track: Track, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys, get = list[str](), track.store.get

    def noted(key: str) -> bytes:
        keys.append(key)
        return get(key)

    monkeypatch.setattr(track.store, "get", noted)
    return keys


def test_reads_from_the_index_and_on(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = track.raw_entries()
    assert track.indices() == [20, 10] and [entry.seq for entry in raw if entry.op == "index"] == [11, 21]
    keys = gets(track, monkeypatch)
    entries = track.entries()
    assert entries == raw and len(raw) == 26
    assert len(keys) == 1 + 6 + 1  # the head, 21 to 26, the index
    below, above = track.brief()
    assert [*below.digests, *(entry.sha256 for entry in above)] == [entry.sha256 for entry in raw]
    assert [entry.op for entry in below.entries] == ["promote", "index"] and len(below.rows) == 18
    assert [*rows(track.label, below, above)] == rows_of(track.label, raw) and len(rows_of(track.label, raw)) == 23
    assert aliases([*below.entries, *above]) == aliases(raw)
    assert [*rows(track.label, below, above, "b")] == []
    keys.clear()
    assert track.head() == raw[-1] and len(keys) == 1


def test_the_bytes_of_an_entry_come_back(track: Track) -> None:
    for entry in track.raw_entries():
        assert index.raw(entry) == track.store.get(f"t/team/stream/log/{10**9 - entry.seq:010d}.json")


@pytest.mark.parametrize("fault", ["flipped", "cut", "absent", "emptied", "another", "unnamed"])
def test_an_index_that_is_not_right_is_not_used(track: Track, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = track.raw_entries()
    folder = Path(track.store.uri) / track.root / "ckpt"
    newest, older = sorted(folder.iterdir())
    data = newest.read_bytes()
    if fault == "unnamed":
        newest.with_name(f"{10**9 - 24:010d}.parquet").write_bytes(index.encode(raw[:24], COLUMNS))
    elif fault == "absent":
        newest.unlink()
    else:
        half = len(data) // 2
        changed = {
            "flipped": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :], "cut": data[:-1], "emptied": b"",
            "another": index.encode([*raw[:19], raw[0]], COLUMNS),
        }  # fmt: skip
        newest.write_bytes(changed[fault])
    below, above = track.brief()
    assert track.entries() == raw and [*rows(track.label, below, above)] == rows_of(track.label, raw)
    faults = verify(track).faults
    assert len(faults) == (fault not in ("absent", "unnamed"))
    for path in (newest, older):
        path.unlink(missing_ok=True)
    assert track.entries() == raw
    assert track.write_index() == 26 and track.entries()[:26] == raw


def test_what_follows_an_index_is_verified(track: Track) -> None:
    path = Path(track.store.uri) / f"t/team/stream/log/{10**9 - 24:010d}.json"
    path.write_bytes(path.read_bytes().replace(b'"overlap":0.0', b'"overlap":0.5'))
    with pytest.raises(IntegrityError, match=r"entry 25 .* does not follow"):
        track.entries()
    with pytest.raises(IntegrityError, match=r"entry 25 .* does not follow"):
        track.brief()


def test_an_index_of_a_cut_writer(track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is there, its entry is not: it does not count, and the next one is written all the same."""
    append = Track.append

    def cut(self: Track, says: Any, **options: Any) -> Any:
        if isinstance(says, Index):
            raise KeyboardInterrupt
        return append(self, says, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Track, "append", cut)
        for number in range(9):
            publish_one(track, tmp_path, number)
    assert track.indices() == [30, 20, 10] and track.entries() == track.raw_entries()
    for number in range(10):
        publish_one(track, tmp_path, number)
    assert track.indices()[0] == 40 and track.entries() == track.raw_entries() and verify(track).faults == []


def test_tracks_are_listed_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = folder_track(tmp_path / "store").store
    for team, name in (("b", "x"), ("a", "y"), ("a", "x")):
        Track(store, team, name).append(Commit.model_validate(BODY), after=None)
    store.put("t/a/no-log/v/1/file", b"")
    store.put("t/A/x/log/0999999999.json", b"")
    listed, list_ = list[str](), store.list
    monkeypatch.setattr(store, "list", lambda prefix, limit=None: listed.append(prefix) or list_(prefix, limit))
    assert list_tracks(store) == [("a", "x"), ("a", "y"), ("b", "x")]
    assert list_tracks(store, "a") == [("a", "x"), ("a", "y")] and list_tracks(store, "..") == []
    assert all(prefix.endswith("/log/0") for prefix in listed)
