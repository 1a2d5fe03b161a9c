"""What a real server makes of encryption, retention and a wrong clock."""

import math
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StoreError
from cluster.storage import S3Store, open_store, probe
from tests.conftest import Ceph

pytestmark = pytest.mark.s3


@pytest.mark.parametrize("near_bytes_per_s", [0.0, math.inf])
def test_encryption_with_a_key(
    ceph: Ceph, ceph_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, near_bytes_per_s: float
) -> None:
    """Small objects, conditional ones, large ones and those in parts; read whole and in parts."""
    monkeypatch.setattr("cluster.storage.s3.ONE_PUT_BYTES", 20 << 20)
    monkeypatch.setattr("cluster.storage.s3.SAMPLE_BYTES", 1 << 20)
    monkeypatch.setattr("cluster.storage.s3.NEAR_BYTES_PER_S", near_bytes_per_s)
    store = open_store(f"s3://{ceph_bucket}/a?sse=aws:kms&kms_key=testkey")
    probe(store)
    store.put("put", b"1")
    assert store.put_if_absent("new", b"2") and not store.put_if_absent("new", b"3")
    sent = {}
    for name, size in {"large": 18 << 20, "parts": (36 << 20) + 1}.items():
        (tmp_path / name).write_bytes(os.urandom(size))
        sent[name] = store.upload(name, tmp_path / name)
    for key in ("put", "new", *sent):
        head = ceph.client().head_object(Bucket=ceph_bucket, Key=f"a/{key}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "testkey")
    assert (store.get("put"), store.get("new")) == (b"1", b"2")
    for name, content in sent.items():
        assert store.download(name, tmp_path / "back") == content
        assert (tmp_path / "back").read_bytes() == (tmp_path / name).read_bytes()
    with pytest.raises(StoreError, match="cannot write 'x'"):
        open_store(f"s3://{ceph_bucket}/a?sse=aws:kms&kms_key=no-such-key").put("x", b"")


def test_retention(ceph: Ceph, ceph_bucket: str, tmp_path: Path) -> None:
    """What is written is kept from its own admin for as long as was asked. Such a bucket is versioned; there Ceph 16
    does not keep to put-if-absent, unlike AWS: the probe refuses it for runs and registries."""
    from botocore.exceptions import ClientError

    bucket, client = f"locked-{uuid.uuid4().hex}", ceph.client()
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    store = open_store(f"s3://{bucket}/a?lock_mode=COMPLIANCE&lock_days=2")
    (tmp_path / "file").write_bytes(data := os.urandom(3 << 20))
    store.put("put", b"1")
    store.upload("file", tmp_path / "file")
    for key, content in {"put": b"1", "file": data}.items():
        head = client.head_object(Bucket=bucket, Key=f"a/{key}")
        assert head["ObjectLockMode"] == "COMPLIANCE"
        until = head["ObjectLockRetainUntilDate"] - datetime.now(UTC)
        assert timedelta(days=1, hours=23) < until <= timedelta(days=2)
        store.delete(key)  # sets a marker; the version stays
        with pytest.raises(ClientError, match="object lock"):
            client.delete_object(Bucket=bucket, Key=f"a/{key}", VersionId=head["VersionId"])
        version = client.get_object(Bucket=bucket, Key=f"a/{key}", VersionId=head["VersionId"])
        assert version["Body"].read() == content
    for _ in range(2):
        with pytest.raises(StoreError, match="two runs could overwrite each other"):
            probe(store)


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_that_is_wrong(ceph_bucket: str, monkeypatch: pytest.MonkeyPatch, off: timedelta) -> None:
    """The server refuses it, and the message says which clock to set."""
    import botocore.auth

    right: Any = botocore.auth.get_current_datetime
    store = S3Store(ceph_bucket)
    assert store.put_if_absent("k", b"1")
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *given, **named: right(*given, **named) + off)
    for call in (lambda: store.get("k"), lambda: store.put_if_absent("other", b"2"), lambda: store.list("")):
        with pytest.raises(StoreError, match="this machine's clock is too far from the store's; set it"):
            call()
