"""The log is a chain that shows what was done to it; commits are ordered; versions come back whole or not at all."""

import dataclasses
import getpass
import hashlib
import inspect
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError, IntegrityError, KeyAbsentError, StoreError
from cluster.storage import FileRecord, LocalStore, S3Store, Store, upload_files
from orchestrator.log.entry import Entry, canonical
from orchestrator.track.track import Track, list_tracks
from tests.support.entries import Raw


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return Track(LocalStore(tmp_path / "store"), "team", "stream")


def fill(track: Track, count: int) -> list[Entry]:
    head, entries = track.head(), []
    for number in range(count):
        head = track.append(Raw("commit", {"task": f"täsk {number}", "score": number / 7}), after=head)
        entries.append(head)
    return entries


def file_of(track: Track, seq: int) -> Path:
    return Path(track.store.uri) / f"t/team/stream/log/{10**9 - seq:010d}.json"


# --- the log


def test_an_empty_log(track: Track) -> None:
    assert track.head() is None and track.entries() == []
    assert list_tracks(track.store) == []
    assert not Path(track.store.uri).exists()


def test_entries_as_other_tools_read_them(track: Track) -> None:
    before = datetime.now(UTC)
    fill(track, 3)
    contents = [file_of(track, seq).read_bytes() for seq in (1, 2, 3)]
    documents = [json.loads(content) for content in contents]
    for number, document in enumerate(documents):
        assert document.keys() == {"seq", "prev_sha256", "nonce", "actor", "time", "op", "task", "score"}
        assert document["seq"] == number + 1 and document["op"] == "commit" and document["task"] == f"täsk {number}"
        assert document["actor"].startswith(f"{getpass.getuser()}@")
        assert timedelta(seconds=-1) < datetime.fromisoformat(document["time"]) - before < timedelta(seconds=30)
        plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert contents[number] == plain.encode()
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    assert [document["prev_sha256"] for document in documents] == ["", *digests[:2]]
    assert len({document["nonce"] for document in documents}) == 3
    assert track.store.list("t/")[0] == "t/team/stream/log/0999999997.json"


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_entries_and_head(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store: Store = LocalStore(tmp_path) if kind == "folder" else S3Store(request.getfixturevalue("s3_bucket"))
    track = Track(store, "team", "stream")
    entries = fill(track, 12)
    assert track.entries() == entries and track.head() == entries[-1]
    assert [entry.seq for entry in entries] == list(range(1, 13))
    with pytest.raises(ConflictError):
        track.append(Raw("commit"), after=entries[3])
    assert track.entries() == entries
    other = Track(store, "team", "stream.2")
    fill(other, 1)
    assert len(other.entries()) == 1 and track.entries() == entries
    store.put("t/Team/x/log/0999999999.json", b"")
    assert list_tracks(store) == [("team", "stream"), ("team", "stream.2")]


def test_more_entries_than_are_read_at_once(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.log.chain.BATCH", 4)
    entries = fill(track, 9)
    assert track.entries() == entries
    file_of(track, 5).unlink()
    with pytest.raises(IntegrityError, match=r"entry 5 .*is missing"):
        track.entries()


def test_what_is_appended_is_what_is_read(track: Track) -> None:
    body = {"tuple": (1, 2.5), "nested": {10: "a", 9: "b"}, "text": "ü \\udc80 \udc80 \U0001f600", "none": None}
    entry = track.append(Raw("open", body), after=None)
    assert entry == track.head()
    assert entry.body == {**body, "tuple": [1, 2.5], "nested": {"10": "a", "9": "b"}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.seq = 2  # type: ignore[misc]


@pytest.mark.parametrize("body", [{"seq": 1}, {"actor": "me"}, {"x": float("nan")}, {"x": [float("inf")]}])
def test_bodies_that_are_refused(track: Track, body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"may not hold|not JSON compliant"):
        track.append(Raw("commit", body), after=None)
    assert track.entries() == []


@pytest.mark.parametrize("name", ["", "A", ".x", "-x", "a/b", "..", "a\n", "ä", "x" * 101, "a b"])
def test_names_that_are_refused(track: Track, name: str) -> None:
    for team, stream in ((name, "stream"), ("team", name)):
        with pytest.raises(ConfigError):
            Track(track.store, team, stream)


def flip(path: Path, at: bytes) -> None:
    """Changes the last byte of the first `at`."""
    data = bytearray(path.read_bytes())
    data[data.index(at) + len(at) - 1] ^= 1
    path.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def rewrite(path: Path, **changes: Any) -> None:
    """An entry with other values, well-formed."""
    path.write_bytes(canonical({**json.loads(path.read_bytes()), **changes}))


TAMPERING: dict[str, tuple[int, Callable[[Callable[[int], Path]], None]]] = {
    "a value changed": (3, lambda at: flip(at(2), b"score")),
    "a digit changed": (3, lambda at: flip(at(2), b"0.1")),
    "the nonce changed": (2, lambda at: rewrite(at(1), nonce="0" * 32)),
    "a link changed": (4, lambda at: rewrite(at(4), prev_sha256="0" * 64)),
    "a link of the first": (1, lambda at: rewrite(at(1), prev_sha256="0" * 64)),
    "no time": (2, lambda at: rewrite(at(2), time="today")),
    "a time without a zone": (2, lambda at: rewrite(at(2), time="2026-01-01T00:00")),
    "an abort of nothing": (5, lambda at: rewrite(at(5), op="abort")),
    "an abort of a number": (5, lambda at: rewrite(at(5), op="abort", prefixes=[3])),
    "a delete of words": (5, lambda at: rewrite(at(5), op="delete", prefixes=[], versions=["1"])),
    "a number that is text": (5, lambda at: rewrite(at(5), seq="5")),
    "a byte appended": (2, lambda at: append(at(2))),
    "the newest not JSON": (5, lambda at: flip(at(5), b'"op":')),
    "two swapped": (2, lambda at: swap(at(2), at(3))),
    "two swapped and renumbered": (2, lambda at: (swap(at(2), at(3)), rewrite(at(2), seq=2), rewrite(at(3), seq=3))),
    "one removed": (3, lambda at: at(3).unlink()),
    "the first removed": (1, lambda at: at(1).unlink()),
    "one cut short": (4, lambda at: at(4).write_bytes(at(4).read_bytes()[:-20])),
    "one emptied": (1, lambda at: at(1).write_bytes(b"")),
    "one replaced": (3, lambda at: at(3).write_bytes(canonical({"op": "commit"}))),
    "one nested without end": (3, lambda at: at(3).write_bytes(b"[" * 100_000)),
    "one of another encoding": (3, lambda at: at(3).write_bytes(b"\xff\xfe")),
    "a number repeated": (6, lambda at: at(6).write_bytes(at(5).read_bytes())),
    "one put on top": (10**9, lambda at: at(10**9).write_bytes(at(5).read_bytes())),
}


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_is_detected_and_the_entry_named(track: Track, kind: str) -> None:
    fill(track, 5)
    seq, tamper = TAMPERING[kind]
    tamper(lambda seq: file_of(track, seq))
    with pytest.raises(IntegrityError, match=rf"entry {seq} \(t/team/stream/log/{10**9 - seq:010d}"):
        track.entries()


def test_a_foreign_file_in_the_log(track: Track) -> None:
    fill(track, 2)
    file_of(track, 1).with_name(".DS_Store").touch()
    file_of(track, 1).with_name("notes.txt").touch()
    assert len(track.entries()) == 2
    file_of(track, 1).with_name("0.json").touch()
    with pytest.raises(IntegrityError, match=r"0\.json is not a log entry"):
        track.head()


# --- conflicts


def test_the_loser_learns_who_won(track: Track) -> None:
    first = track.append(Raw("open", {}), after=None)
    winner = track.append(Raw("start", {}), after=first)
    with pytest.raises(ConflictError) as caught:
        track.append(Raw("commit", {"mine": 1}), after=first)
    for part in (winner.actor, winner.time, "start", "entry 2", "team/stream"):
        assert part in str(caught.value)
    assert track.entries() == [first, winner]
    with pytest.raises(ConflictError):
        track.append(Raw("open", {}), after=None)


def append_persistently(track: Track, count: int) -> None:
    """What a caller does that means its entry whatever stands below."""
    for number in range(count):
        while True:
            try:
                track.append(Raw("commit", {"number": number}), after=track.head())
                break
            except ConflictError:
                time.sleep(random.uniform(0, 0.02))


def test_eight_processes_append(track: Track) -> None:
    code = f"""
import random, sys, time
from cluster.errors import ConflictError
from cluster.storage import LocalStore
from orchestrator.track.track import Track
from tests.support.entries import Raw
{inspect.getsource(append_persistently)}
print("ready", flush=True)
sys.stdin.read()
append_persistently(Track(LocalStore({track.store.uri!r}), "team", "stream"), 5)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(8)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 8
    for child in children:
        child.stdin.close()
    assert [child.wait(timeout=60) for child in children] == [0] * 8
    assert [entry.seq for entry in track.entries()] == list(range(1, 41))


def test_readers_see_a_whole_chain_while_writers_append(track: Track) -> None:
    writers = [threading.Thread(target=append_persistently, args=(track, 15)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = [0]
    while any(writer.is_alive() for writer in writers):
        seen.append(len(track.entries()))
    assert seen == sorted(seen) and len(track.entries()) == 30


# --- versions


@pytest.fixture
def version(track: Track, tmp_path: Path) -> tuple[str, str]:
    """A written version: (prefix, sha256 of its manifest)."""
    folder = tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"\0\1\2")
    (folder / "sub" / "log.parquet").write_bytes(b"rows")
    prefix = track.fresh_prefix()
    return prefix, track.write_manifest(prefix, {"task": "täsk"}, upload_files(track.store, prefix, folder))


def test_a_version_comes_back(track: Track, version: tuple[str, str]) -> None:
    prefix, sha256 = version
    assert prefix.startswith("t/team/stream/v/") and len(prefix.rpartition("/")[2]) == 32
    data = track.store.get(f"{prefix}/manifest.json")
    assert hashlib.sha256(data).hexdigest() == sha256
    assert json.loads(data) == {
        "format_version": 1,
        "task": "täsk",
        "files": [
            {"path": "adapter.safetensors", "size": 3, "sha256": hashlib.sha256(b"\0\1\2").hexdigest()},
            {"path": "sub/log.parquet", "size": 4, "sha256": hashlib.sha256(b"rows").hexdigest()},
        ],
    }
    manifest = track.read_manifest(prefix, sha256)
    assert manifest == json.loads(data)
    assert track.read_file(prefix, manifest, "sub/log.parquet") == b"rows"
    assert track.fresh_prefix() != track.fresh_prefix()
    assert list_tracks(track.store) == []


def test_a_changed_manifest_is_refused(track: Track, version: tuple[str, str]) -> None:
    prefix, sha256 = version
    with pytest.raises(IntegrityError, match="was changed"):
        track.read_manifest(prefix, "0" * 64)
    track.store.put(f"{prefix}/manifest.json", track.store.get(f"{prefix}/manifest.json") + b"\n")
    with pytest.raises(IntegrityError, match="was changed"):
        track.read_manifest(prefix, sha256)
    with pytest.raises(IntegrityError, match="is missing"):
        track.read_manifest(track.fresh_prefix(), sha256)


@pytest.mark.parametrize("change", [b"\0\1\3", b"\0\1\2\0", b"", None])
def test_a_changed_file_is_refused(track: Track, version: tuple[str, str], change: bytes | None) -> None:
    prefix, sha256 = version
    manifest = track.read_manifest(prefix, sha256)
    if change is None:
        (Path(track.store.uri) / prefix / "sub" / "log.parquet").unlink()
    else:
        track.store.put(f"{prefix}/adapter.safetensors", change)
    path = "sub/log.parquet" if change is None else "adapter.safetensors"
    with pytest.raises(IntegrityError, match=r"sub/log.parquet is missing|adapter.safetensors: differs"):
        track.read_file(prefix, manifest, path)
    with pytest.raises(KeyAbsentError, match="lists no file"):
        track.read_file(prefix, manifest, "manifest.json")


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "", ".", "manifest.json", ".tmp/x", 3, None]
)
def test_hostile_paths_in_a_manifest_are_refused(track: Track, tmp_path: Path, path: Any) -> None:
    record = {"path": path, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    manifest = {"format_version": 1, "files": [record]}
    data, prefix = canonical(manifest), track.fresh_prefix()
    track.store.put(f"{prefix}/manifest.json", data)
    for call in (
        lambda: track.read_manifest(prefix, hashlib.sha256(data).hexdigest()),
        lambda: track.write_manifest(prefix, {}, [FileRecord(path, 0, record["sha256"])]),
    ):
        with pytest.raises(IntegrityError, match="unsafe"):
            call()
    assert {entry.name for entry in tmp_path.iterdir()} == {"store"}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"no", IntegrityError),
        (b"[]", IntegrityError),
        (b"{}", IntegrityError),
        (b'{"format_version":1}', IntegrityError),
        (b'{"format_version":1,"files":[{}]}', IntegrityError),
        (b'{"format_version":1,"files":[1]}', IntegrityError),
        (b'{"format_version":2,"files":[]}', StoreError),
    ],
)
def test_malformed_manifests_are_refused(track: Track, data: bytes, error: type[Exception]) -> None:
    prefix = track.fresh_prefix()
    track.store.put(f"{prefix}/manifest.json", data)
    with pytest.raises(StoreError) as caught:
        track.read_manifest(prefix, hashlib.sha256(data).hexdigest())
    assert type(caught.value) is error


def test_manifests_that_are_not_written(track: Track) -> None:
    record = FileRecord("a", 0, hashlib.sha256(b"").hexdigest())
    for metadata in ({"files": []}, {"format_version": 2}, {"x": float("nan")}):
        with pytest.raises(ValueError, match=r"may not hold|not JSON compliant"):
            track.write_manifest(track.fresh_prefix(), metadata, [record])
    with pytest.raises(IntegrityError, match="repeated"):
        track.write_manifest(track.fresh_prefix(), {}, [record, record])
    assert track.store.list("") == []
