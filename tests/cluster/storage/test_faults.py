"""A store behind a network that drops, cuts, delays and lies: no wrong bytes, no duplicate, no false conflict."""

import hashlib
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StoreError
from cluster.storage import S3Store, download_files, upload_files
from tests.support.fault_proxy import DELAY_S, EVERYTHING, QUARTER_DROPPED, FaultProxy
from tests.support.sample import sample

pytestmark = pytest.mark.slow
VERBS = ["get", "put", "put_if_absent", "list", "list_folders", "delete", "upload", "download"]
SHARES = {"a quarter dropped": QUARTER_DROPPED, "everything": EVERYTHING}


@pytest.fixture
def behind(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """behind(shares) is a store whose requests meet these faults, and its proxy."""
    monkeypatch.setattr("cluster.storage.s3.READ_TIMEOUT_S", DELAY_S / 2)
    monkeypatch.setattr("cluster.storage.retry.FIRST_WAIT_S", 0.005)
    monkeypatch.setattr("cluster.storage.retry.LONGEST_WAIT_S", 0.05)
    servers = []

    def start(shares: dict[str, float]) -> tuple[S3Store, FaultProxy]:
        proxy = FaultProxy(s3_endpoint, shares)
        servers.append(proxy.serving())
        monkeypatch.setenv("AWS_ENDPOINT_URL", servers[-1].__enter__())
        return S3Store(s3_bucket), proxy

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture(params=SHARES)
def faulty(request: pytest.FixtureRequest, behind: Callable[..., Any]) -> Iterator[S3Store]:
    store, proxy = behind(SHARES[request.param])
    yield store
    for fault in proxy.shares if sum(proxy.counts.values()) > 300 else ():
        assert proxy.counts[fault], f"{fault} was never met"


def nonce(name: str) -> bytes:
    return f"{name} {uuid.uuid4().hex}".encode()


def test_no_false_conflict(faulty: S3Store) -> None:
    """Every writer has keys of its own, so each put must win, and what is there is its own."""
    values = {f"k/{number:03d}": nonce(str(number)) for number in range(100)}
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(faulty.put_if_absent, values, values.values()))
        assert list(pool.map(faulty.get, values)) == [*values.values()]
    assert faulty.list("k/") == [*values]


def test_one_winner(faulty: S3Store) -> None:
    for number in range(6):
        values = [nonce(str(writer)) for writer in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda value, key=f"k/{number}": faulty.put_if_absent(key, value), values))
        assert sum(won) == 1
        assert faulty.get(f"k/{number}") == values[won.index(True)]


@pytest.mark.parametrize("near_bytes_per_s", [0.0, math.inf])
def test_files(faulty: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near_bytes_per_s: float) -> None:
    """Some in parts, all whole; fetched in one stream while it holds, or in parts."""
    for name in ("PART_BYTES", "ONE_PUT_BYTES"):
        monkeypatch.setattr(f"cluster.storage.s3.{name}", 5 << 20)  # the least that S3 takes
    monkeypatch.setattr("cluster.storage.s3.SAMPLE_BYTES", 1 << 20)
    monkeypatch.setattr("cluster.storage.s3.NEAR_BYTES_PER_S", near_bytes_per_s)
    (tmp_path / "a").mkdir()
    for number, size in enumerate([0, 1, 100_000, 12_000_000, 6_000_000]):
        (tmp_path / f"a/{number}").write_bytes(os.urandom(size))
    for turn in range(2):
        records = upload_files(faulty, f"v/{turn}", tmp_path / "a")
        for record in records:
            assert record.sha256 == hashlib.sha256((tmp_path / "a" / record.path).read_bytes()).hexdigest()
        download_files(faulty, f"v/{turn}", records, tmp_path / f"b{turn}")  # which checks digests


def test_folders_and_deletion(faulty: S3Store) -> None:
    for number in range(20):
        faulty.put(f"t/{number:02d}/x", b"x" * number)
    assert faulty.list_folders("t") == [f"{number:02d}" for number in range(20)]
    for number in range(0, 20, 2):
        faulty.delete(f"t/{number:02d}/x")
    assert faulty.list_folders("t") == [f"{number:02d}" for number in range(1, 20, 2)]
    assert faulty.list("t/") == [f"t/{number:02d}/x" for number in range(1, 20, 2)]


@pytest.mark.parametrize("verb", sample(VERBS, 3))
def test_a_store_that_is_away_for_a_while(behind: Callable[..., Any], tmp_path: Path, verb: str) -> None:
    store, proxy = behind({})
    store.put("k/x", b"there")
    (tmp_path / "file").write_bytes(b"file")
    proxy.away = True
    threading.Timer(1.0, lambda: setattr(proxy, "away", False)).start()
    started = time.monotonic()
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: store.get("k/x") == b"there",
        "put": lambda: store.put("k/y", b"") is None,
        "put_if_absent": lambda: store.put_if_absent("k/y", b"1"),
        "list": lambda: store.list("k/") == ["k/x"],
        "list_folders": lambda: store.list_folders("") == ["k"],
        "delete": lambda: store.delete("k/x") is None,
        "upload": lambda: store.upload("k/y", tmp_path / "file").size == 4,
        "download": lambda: store.download("k/x", tmp_path / "got").size == 5,
    }
    assert calls[verb]()
    assert 0.9 < time.monotonic() - started < 5 and proxy.counts["away"] > 3


def test_a_store_that_stays_away(behind: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, proxy = behind({})
    proxy.away = True
    monkeypatch.setenv("ORTHOPLEX_STORE_PATIENCE_S", "0.5")
    (tmp_path / "got").write_bytes(b"")
    for call in (lambda: store.get("k"), lambda: store.put_if_absent("k", b"1"), lambda: store.list("k")):
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"tried for [01] s \(ORTHOPLEX_STORE_PATIENCE_S\)"):
            call()
        assert time.monotonic() - started < 2
    with pytest.raises(StoreError):
        store.download("k", tmp_path / "got")
    assert not (tmp_path / "got").exists()
