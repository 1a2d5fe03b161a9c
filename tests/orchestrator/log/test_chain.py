"""The log is a chain that shows what was done to it, however many write to it."""

import inspect
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConflictError, IntegrityError
from cluster.storage import LocalStore, S3Store, Store
from orchestrator.log.entry import canonical
from orchestrator.track.layout import list_tracks
from orchestrator.track.track import Track
from tests.support.entries import Raw
from tests.support.logs import file_of, fill


def test_an_empty_log(track: Track) -> None:
    assert track.head() is None and track.entries() == []
    assert list_tracks(track.store) == []
    assert not Path(track.store.uri).exists()


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


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


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


def test_the_loser_learns_who_won(track: Track) -> None:
    first = track.append(Raw("first", {}), after=None)
    winner = track.append(Raw("begin", {}), after=first)
    with pytest.raises(ConflictError) as caught:
        track.append(Raw("note", {"mine": 1}), after=first)
    for part in (winner.actor, winner.time, "begin", "entry 2", "team/stream"):
        assert part in str(caught.value)
    assert track.entries() == [first, winner]
    with pytest.raises(ConflictError):
        track.append(Raw("first", {}), after=None)


def append_persistently(track: Track, count: int) -> None:
    """What a caller does that means its entry whatever stands below."""
    for number in range(count):
        while True:
            try:
                track.append(Raw("note", {"number": number}), after=track.head())
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
