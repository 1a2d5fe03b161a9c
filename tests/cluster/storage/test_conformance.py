"""One conformance suite that every store passes."""

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import IntegrityError, KeyAbsentError
from cluster.storage import (
    PROBE_KEY,
    Store,
    open_store,
)

SAFE = ("adapter.safetensors", "log/0999999999.json", PROBE_KEY, "t/a-b/c_d/v/0f/e.f", "...", "README.md", "x" * 200)


def test_get_gives_back_what_was_put(store: Store) -> None:
    data = "Ünïcode ✓\0\r\n".encode() + bytes(range(256))
    for key in SAFE:
        store.put(key, data)
        assert store.get(key) == data
    store.put("empty", b"")
    assert store.get("empty") == b""


def test_put_replaces(store: Store) -> None:
    store.put("k", b"a longer old value")
    store.put("k", b"new")
    assert store.get("k") == b"new"


def test_absent_key(store: Store) -> None:
    store.put("a/b", b"")
    for key in ("x", "a", "a/c", "a/b2"):
        with pytest.raises(KeyAbsentError, match=f"no object '{key}'"):
            store.get(key)


def test_list_is_in_byte_order_below_a_prefix(store: Store) -> None:
    keys = ["a", "a-b", "a.b/c", "a0", "aB", "a_b", "ab", "dir/1", "dir/10", "dir/2", "dir/sub/x", "dir-x/1", "Z"]
    assert store.list("") == []
    for key in keys:
        store.put(key, b"")
    ordered = sorted(keys, key=str.encode)
    assert store.list("") == ordered
    assert store.list("dir/") == ["dir/1", "dir/10", "dir/2", "dir/sub/x"]
    assert store.list("dir/1") == ["dir/1", "dir/10"]
    assert store.list("dir") == ["dir-x/1", "dir/1", "dir/10", "dir/2", "dir/sub/x"]
    assert store.list("nothing/here/") == []
    for limit in (1, 3, 100):
        assert store.list("", limit=limit) == ordered[:limit]
    assert store.list("dir/", limit=1) == ["dir/1"]


def test_put_if_absent(store: Store) -> None:
    assert store.put_if_absent("k/1", b"first")
    assert not store.put_if_absent("k/1", b"second")
    assert store.get("k/1") == b"first"
    store.put("k/2", b"put")
    assert not store.put_if_absent("k/2", b"late")


def test_of_twenty_racing_writers_one_wins(store: Store) -> None:
    for round_ in range(3):
        barrier, wins = threading.Barrier(20), []

        def write(number: int, key: str = f"race/{round_}", wait: Any = barrier.wait, wins: list[int] = wins) -> None:
            wait()
            if store.put_if_absent(key, f"writer {number}".encode()):
                wins.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert store.get(f"race/{round_}") == f"writer {wins[0]}".encode()


def test_delete(store: Store) -> None:
    for key in ("a/b", "a/c", "d"):
        store.put(key, b"")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")
    assert store.list("") == ["a/c", "d"]
    with pytest.raises(KeyAbsentError):
        store.get("a/b")
    assert store.put_if_absent("a/b", b"again")


def test_list_folders(store: Store) -> None:
    assert store.list_folders("") == [] and store.list_folders("t") == []
    keys = ["t/a/log/1", "t/a/v/2/x", "t/b/log/1", "t/b2/log/1", "t/file", "t/a.b/1", "t/Z/1", "u/c/d", "top"]
    for key in keys:
        store.put(key, b"")
    assert store.list_folders("") == ["t", "u"]
    assert store.list_folders("t") == store.list_folders("t/") == ["Z", "a", "a.b", "b", "b2"]
    assert store.list_folders("t/a") == ["log", "v"] and store.list_folders("t/b/log") == []
    store.delete("u/c/d")
    assert store.list_folders("") == ["t"]


@pytest.mark.slow
def test_list_folders_beyond_a_page(store: Store) -> None:
    names = [f"f{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(f"t/{name}/x", b""), names))
    assert store.list_folders("t") == names


def test_copies_reopen(store: Store, shared: Callable[[Store], Store]) -> None:
    store.put("k", b"v")
    for twin in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store), open_store(store.uri)):
        assert twin.uri == store.uri and "client" not in vars(twin)
        assert shared(twin).get("k") == b"v"


def test_nothing_larger_than_what_is_due_is_read(store: Store, tmp_path: Path) -> None:
    store.put("k", b"12345")
    assert store.get("k", 5) == b"12345" and store.download("k", tmp_path / "k", 5).size == 5
    for call in (lambda: store.get("k", 4), lambda: store.download("k", tmp_path / "l", 4)):
        with pytest.raises(IntegrityError, match="'k' has more than the 4 bytes that are due there"):
            call()
    assert not (tmp_path / "l").exists()
    with pytest.raises(KeyAbsentError):
        store.get("absent", 4)
