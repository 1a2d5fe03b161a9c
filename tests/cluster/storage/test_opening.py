"""How a URI becomes a store, and how a store is proved."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import ConfigError, StoreError
from cluster.storage import (
    PROBE_KEY,
    LocalStore,
    S3Store,
    Store,
    open_store,
    probe,
)


def test_probe_accepts_and_may_be_repeated(store: Store) -> None:
    probe(store)
    probe(store)
    assert store.list("") == [PROBE_KEY]


class Ignoring:
    """A store that overwrites whatever the condition says, and `answers` as told."""

    def __init__(self, inner: Store, answers: bool) -> None:
        self.inner, self.answers, self.uri = inner, answers, "s3://careless"
        self.get, self.put, self.list = inner.get, inner.put, inner.list
        self.upload, self.download = inner.upload, inner.download
        self.list_folders, self.delete = inner.list_folders, inner.delete

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.inner.put(key, data)
        return self.answers


@pytest.mark.parametrize("answers", [True, False])
def test_probe_refuses_a_store_that_ignores_the_condition(store: Store, answers: bool) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match=r"s3://careless.*If-None-Match"):
            probe(Ignoring(store, answers))


def test_probe_refuses_a_store_that_does_not_list(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "list", lambda prefix, limit=None: [])
    with pytest.raises(StoreError, match="does not list"):
        probe(store)


def test_open_store_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for uri, canonical in {
        "store": f"{tmp_path}/store",
        "./a/../store": f"{tmp_path}/store",
        "/x/y z/@": "/x/y z/@",
        "~/store": "/home/me/store",
        "file:///x/y%20z": "/x/y z",
        "s3://bucket": "s3://bucket",
        "s3://bucket/": "s3://bucket",
        "s3://my.bucket/a/B_c/": "s3://my.bucket/a/B_c",
        "s3://bucket/a?kms_key=alias/k&sse=aws:kms": "s3://bucket/a?sse=aws:kms&kms_key=alias/k",
        "s3://bucket?sse=AES256": "s3://bucket?sse=AES256",
        "s3://bucket?lock_days=30&lock_mode=GOVERNANCE": "s3://bucket?lock_mode=GOVERNANCE&lock_days=30",
    }.items():
        opened = open_store(uri)
        assert opened.uri == canonical
        assert type(opened) is (S3Store if uri.startswith("s3") else LocalStore)
        assert open_store(opened.uri).uri == canonical
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    ["", " ", "s3://", "s3:///prefix", "s3:bucket", "s3://bucket//a", "s3://bucket/../x", "S3://bucket",
     "gs://bucket", "http://host/bucket", "file://host/x", "file://", "a\nb", "~nobody-of-this-name/x"],
)  # fmt: skip
def test_open_store_refuses_other_forms(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert repr(uri) in str(caught.value) and "s3://bucket/prefix" in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["s3://user:hunter2@bucket/x", "https://user:hunter2@host/x", "s3://user:hunt/er2@bucket", "user:hunter2@host/x"],
)
def test_open_store_keeps_passwords_to_itself(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert "hunt" not in str(caught.value) and "AWS_PROFILE" in str(caught.value)


def test_opening_imports_no_sdk() -> None:
    code = "import sys, cluster.storage as s; s.open_store('s3://bucket'); assert 'botocore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
