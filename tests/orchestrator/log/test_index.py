"""An index says what the log says, counts only where the log names it, and spares reading the log again."""

import io
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ConflictError, IntegrityError, StoreError
from orchestrator.log import chain as log
from orchestrator.log import index
from orchestrator.log.entry import Entry, canonical, parse_entry
from orchestrator.log.event import Index
from orchestrator.log.index import fitting
from orchestrator.registry.aliases import promote
from orchestrator.registry.catalog import rows, rows_of
from orchestrator.registry.verify import verify
from orchestrator.track.events import Commit
from orchestrator.track.layout import list_tracks
from orchestrator.track.moves import aliases
from orchestrator.track.track import COLUMNS, Track
from tests.orchestrator.conftest import config_of
from tests.soak.memory import anonymous_bytes
from tests.support.entries import Raw
from tests.support.registries import BODY, folder_track, publish_one, started_in_vain


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with 23 versions and an alias; an index after entries 10 and 20."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "INDEX_EVERY", 10)
        made = folder_track(folder / "store")
        for number in range(23):
            publish_one(made, folder, number)
            if number == 4:
                promote(made, 3, "production", why="best")
    return folder / "store"


@pytest.fixture
def track(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Track:
    """A copy of it."""
    monkeypatch.setattr(log, "INDEX_EVERY", 10)
    shutil.copytree(recorded, tmp_path / "store")
    return folder_track(tmp_path / "store")


def gets(track: Track, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys, get = list[str](), track.store.get

    def noted(key: str, most: int | None = None) -> bytes:
        keys.append(key)
        return get(key, most)

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


# --- what bodies hold


@pytest.mark.slow
def test_the_log_of_a_run_that_was_started_a_hundred_times(tmp_path: Path) -> None:
    """A real `start` has the versions of packages, where a `delete` has those of adapters."""
    track = started_in_vain(config_of("a", team="team", store=str(tmp_path / "store")), 210)
    entries = track.raw_entries()
    assert {entry.op for entry in entries} == {"start", "interrupt", "index"}
    assert type(entries[0].body["versions"]) is dict and entries[200].op == "index" and track.indices() == [200]
    below, above = track.brief()
    assert len(below.digests) == 200 and [*rows(track.label, below, above)] == []
    assert track.entries() == entries and verify(track).faults == []
    assert track.write_index() == len(entries) and track.entries()[:-1] == entries


def test_what_a_column_holds() -> None:
    """Expected by the ranges of two's complement and of IEEE 754."""
    junk = (None, True, [], [1], {}, {"a": 1})
    for kind in ("string", "int32", "int64", "float64"):
        assert [fitting(value, kind) for value in junk] == [None] * len(junk)
    assert [fitting(value, "string") for value in ("", "ü", "a\ud800", 1, 1.0)] == ["", "ü", "a\\ud800", None, None]
    for bits in (32, 64):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        for value, held in ((low, low), (high, high), (low - 1, None), (high + 1, None), (10**400, None), ("1", None)):
            assert fitting(value, f"int{bits}") == held
    assert [fitting(value, "int64") for value in (1e6, 1.5, 1e300)] == [10**6, None, None]
    assert fitting(3.0, "int32") is None  # no version is 3.0
    assert [fitting(value, "float64") for value in (0, 0.5, 2**60, 10**400, "0.5")] == [0, 0.5, 2.0**60, None, None]


JSON: list[Any] = [
    None, True, 0, -1, 3, 2**31, 2**63, 10**400, 0.5, 3.0, 1e300,
    "x", "", "\ud800", [], [1], ["a"], [None], {}, {"a": {}},
]  # fmt: skip
OPS = ("start", "open", "fork", "workers", "retry", "commit", "renew", "fail", "promote", "rollback", "trial", "other")


def chain(bodies: Sequence[tuple[str, dict[str, Any]]], **more: Any) -> list[Entry]:
    """Entries of these operations and bodies."""
    made = list[Entry]()
    for seq, (op, body) in enumerate(bodies, 1):
        before = made[-1].sha256 if made else ""
        fields = {"seq": seq, "prev_sha256": before, "nonce": "n", "actor": "a\udcff", "time": "2026-01-01T00:00:00Z"}
        made.append(parse_entry(canonical({**body, **fields, "op": op, **more})))
    return made


@pytest.mark.parametrize("op", OPS)
def test_any_body_can_be_indexed(op: str) -> None:
    """Each key of a column with each kind of JSON value, in each operation. A list is not made of malformed ones."""
    entries = chain([(op, {name: value}) for name in (*COLUMNS.values, *COLUMNS.lists) for value in JSON])
    data = index.encode(entries, COLUMNS)
    assert index.decode(data).entries == entries
    if op == "commit":
        with pytest.raises(ValueError, match="a row is incomplete"):
            index.brief(data, COLUMNS)
        return
    found = index.brief(data, COLUMNS)
    assert found.digests == [entry.sha256 for entry in entries] and len(found.entries) == len(entries)
    if op in ("promote", "rollback"):
        with pytest.raises(IntegrityError, match=rf"entry 1 \({op}\): alias: field required"):
            aliases(found.entries)
    else:
        assert [*rows("t/s", found, ())] == [] and aliases(found.entries) == {}


def test_lists_are_of_the_operations_that_have_them() -> None:
    lists = [
        ("delete", {"versions": [1, 2**40, 3], "prefixes": ["p", "\ud800"]}),
        ("abort", {"prefixes": ["q"], "versions": 1}),
        ("start", {"versions": [1], "prefixes": ["p"]}), ("delete", {"versions": [], "prefixes": []}),
    ]  # fmt: skip
    bodies = [entry.body for entry in index.brief(index.encode(chain(lists), COLUMNS), COLUMNS).entries]
    assert bodies == [
        {"versions": [1, 3], "prefixes": ["p", "\\ud800"]}, {"prefixes": ["q"]}, {}, {"versions": [], "prefixes": []}
    ]  # fmt: skip


def test_a_signature_of_null_comes_back() -> None:
    entries = chain([("renew", {}), ("renew", {"a": 1})], signature=None)
    assert index.decode(index.encode(entries, COLUMNS)).entries == entries


def test_what_is_listed_beside_bodies_of_any_kind(track: Track) -> None:
    """The rows of commits are right, whatever stands next to them."""
    for value in JSON:
        track.append(Raw("note", dict.fromkeys((*COLUMNS.values, *COLUMNS.lists), value)), after=track.head())
    track.write_index()
    below, above = track.brief()
    assert len(below.digests) > 26 + len(JSON) and verify(track).faults == []
    assert [*rows(track.label, below, above)] == rows_of(track.label, track.raw_entries())


def encoded_before(entries: Sequence[Entry], _: object = None) -> bytes:
    """As every index was written up to the version that took lists from any operation."""
    columns = {name: pa.array([getattr(e, name) for e in entries], kind) for name, kind in index.HEADER.items()}
    columns |= {name: pa.array([e.body.get(name) for e in entries], kind) for name, kind in COLUMNS.values.items()}
    lists = {"prefixes": pa.list_(pa.string()), "versions": pa.list_(pa.int32())}
    columns |= {name: pa.array([e.body.get(name) for e in entries], kind) for name, kind in lists.items()}
    columns["entry"] = pa.array([index.raw(e) for e in entries], pa.binary())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", row_group_size=10_000)
    return sink.getvalue()


def test_an_index_of_before_is_read(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(index, "encode", encoded_before)
        assert track.write_index() == 26
    raw = track.raw_entries()
    below, above = track.brief()
    assert len(below.digests) == 26 and track.entries() == raw and verify(track).faults == []
    assert [*rows(track.label, below, above)] == rows_of(track.label, raw)


def test_a_writer_makes_an_index_of_what_it_has_read_and_written(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read again but the newest entry, and no second copy of the log is kept."""
    entries = track.entries()
    entries.append(track.append(Raw("note", {}), after=entries[-1]))
    read, seqs = Track._read, list[int]()
    monkeypatch.setattr(Track, "_read", lambda self, seq: seqs.append(seq) or read(self, seq))
    assert track.write_index() == len(entries) and {*seqs} == {len(entries)}
    assert all(a is b for a, b in zip(track.catch_up(), entries, strict=False))
    assert Track(track.store, track.team, track.name).entries()[:-1] == entries


def test_an_index_leaves_no_memory_behind() -> None:
    """Arrow kept some 20 MB after the first indices of a long run."""
    content = {"seq": 1, "prev_sha256": "", "nonce": "n" * 32, "actor": "a@h", "time": "2026-01-01T00:00:00+00:00"}
    data = canonical({**content, "op": "renew", "lease": 1, "progress": {"phase": "train", "step": 7}})
    entries = [parse_entry(data) for _ in range(1500)]
    index.encode(entries[:10], COLUMNS)  # loads Arrow
    before = anonymous_bytes(os.getpid())
    for end in range(100, 1500, 100):
        index.encode(entries[:end], COLUMNS)
    assert anonymous_bytes(os.getpid()) - before < 6e6


# --- an index that cannot be written


@pytest.mark.parametrize(
    "error", [pa.ArrowInvalid("odd"), MemoryError(), StoreError("away"), ConflictError("others"), AssertionError()]
)
def test_an_index_that_cannot_be_written_ends_nothing(
    track: Track, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The promotion stands, its writer hears of it, and the next multiple tries again."""

    def refuse(*_: object) -> bytes:
        raise error

    caplog.set_level(logging.WARNING, "orthoplex")
    with monkeypatch.context() as patch:
        patch.setattr(index, "encode", refuse)
        moved = [promote(track, 1 + number % 3, "production", why="") for number in range(5)]
        with pytest.raises(type(error)):
            track.write_index()
    assert [entry.seq for entry in moved] == [27, 28, 29, 30, 31] and track.indices() == [20, 10]
    said = [record.getMessage() for record in caplog.records if record.name == "orthoplex.log"]
    assert len(said) == 1 and "no index at entry 30" in said[0] and "entry 40 tries again" in said[0]
    assert type(error).__name__ in said[0]
    for _ in range(9):
        promote(track, 2, "production", why="")
    assert track.indices()[0] == 40 and track.entries() == track.raw_entries() and verify(track).faults == []


def test_an_index_entry_without_what_it_names_is_a_fault(track: Track) -> None:
    """The entry is at fault; the index that it may name is sound, and nobody is told to remove it."""
    for upto in (-3, 0, 99):
        track.append(Raw("index", {"upto": upto, "index_sha256": "0"}), after=track.head())
    faults = verify(track).faults
    assert len(faults) == 3 and all("does not say which entries it is an index of" in fault for fault in faults)
    assert track.indices()[-1] == 10
    assert track.entries() == track.raw_entries()


@pytest.mark.parametrize("body", [{}, {"upto": "x"}, {"upto": 10}])
def test_a_malformed_index_entry_is_a_malformed_entry(track: Track, body: dict[str, Any]) -> None:
    entry = track.append(Raw("index", body), after=track.head())
    (fault,) = verify(track).faults
    assert f"entry {entry.seq} " in fault and "is malformed: index: " in fault
