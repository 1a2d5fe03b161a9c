"""Stores to test, and time that passes at once."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import LocalStore, S3Store, Store
from tests.support.memory_store import MemoryStore, with_memory

CLIENTS: dict[str, Any] = {}


def with_shared_client(store: Store) -> Store:
    """The store, if on S3 with one client a server for all tests: making one takes longer than most tests."""
    if isinstance(store, S3Store):
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        vars(store).update({"client": CLIENTS[endpoint]} if endpoint in CLIENTS else {})
        CLIENTS[endpoint] = store.client
    return store


@pytest.fixture
def shared() -> Callable[[Store], Store]:
    return with_shared_client


@pytest.fixture(
    params=[
        "folder",
        "memory",
        "moto",
        "moto with prefix",
        pytest.param("ceph", marks=pytest.mark.s3),
        pytest.param("ceph over https", marks=pytest.mark.s3),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "memory":
        with_memory(monkeypatch.setitem)
        return MemoryStore(uuid.uuid4().hex)
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    fixture = {"ceph": "ceph_bucket", "ceph over https": "ceph_tls_bucket"}.get(request.param, "s3_bucket")
    bucket = request.getfixturevalue(fixture)
    return with_shared_client(S3Store(bucket, "a/prefix" if "prefix" in request.param else ""))


@pytest.fixture
def s3(s3_bucket: str) -> Any:
    return with_shared_client(S3Store(s3_bucket))


class Clock:
    """Stands in for `time`: sleeping takes no time and is counted."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of retries; its patience is the default."""
    made = Clock()
    monkeypatch.setattr("cluster.storage.retry.time", made)
    monkeypatch.setenv("ORTHOPLEX_STORE_PATIENCE_S", "120")
    return made
