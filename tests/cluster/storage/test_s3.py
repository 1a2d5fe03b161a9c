"""What is particular to a store in a bucket, on moto's server."""

import hashlib
import math
import os
import tempfile
import urllib.request
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import KeyAbsentError, StoreError
from cluster.storage import S3Store, Store, open_store, probe
from tests.support.answers import answer


def lose_the_answer(request: Any, **_: Any) -> None:
    """A `before-send` hook: the request reaches the server, the answer does not come back."""
    from botocore.exceptions import ConnectionClosedError

    headers = {name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()}
    headers = {"Content-Type": "application/octet-stream", **headers, "Expect": ""}
    body = request.body if isinstance(request.body, bytes) else request.body.read()
    urllib.request.urlopen(urllib.request.Request(request.url, body, headers, method=request.method)).read()
    raise ConnectionClosedError(endpoint_url=request.url)


def test_our_own_put_whose_answer_was_lost_is_a_win(s3: S3Store, intercept: Callable[..., None], clock: Any) -> None:
    intercept(left := [lose_the_answer])
    assert s3.put_if_absent("k", b"mine, nonce 1") and not left
    assert s3.get("k") == b"mine, nonce 1"


def test_a_412_to_another_writer_is_a_defeat(s3: S3Store, intercept: Callable[..., None], clock: Any) -> None:
    s3.put("k", b"theirs, nonce 2")
    intercept([answer(500, "InternalError")])
    assert not s3.put_if_absent("k", b"mine, nonce 1")
    assert s3.get("k") == b"theirs, nonce 2"


def test_the_last_answer_lost_is_read_back(s3: S3Store, intercept: Callable[..., None], clock: Any) -> None:
    hooks = [answer(500, "InternalError")] * 10 + [lose_the_answer] + [answer(500, "InternalError")] * 1000
    intercept(hooks)
    assert s3.put_if_absent("k", b"mine, nonce 1") and clock.now > 100


def failures(store: Store) -> list[str]:
    """The message of every verb, each of which must fail."""
    messages = []
    for call in (
        lambda: store.get("t/x"),
        lambda: store.put("t/x", b""),
        lambda: store.upload("t/x", Path(__file__)),
        lambda: store.download("t/x", Path(tempfile.gettempdir()) / f"orthoplex-{uuid.uuid4().hex}"),
        lambda: store.list_folders("t"),
        lambda: store.delete("t/x"),
        lambda: store.put_if_absent("t/x", b"1"),
        lambda: store.list("t/", limit=1),
        lambda: probe(store),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert not isinstance(caught.value, KeyAbsentError)
        messages.append(str(caught.value))
    for message in messages:
        assert "\n" not in message and store.uri in message
        for secret in (os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY"), "hunter2"):
            assert not secret or secret not in message
    return messages


def test_no_such_bucket(s3_endpoint: str, s3_bucket: str) -> None:
    for message in failures(S3Store("no-such-bucket")):
        assert "no such bucket; create it" in message and s3_endpoint.removeprefix("http://") in message


def test_no_server(s3_bucket: str, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9: cannot list 't/': cannot connect.*AWS_ENDPOINT_URL"):
        S3Store("bucket").list("t/")
    assert 115 < clock.now < 120
    assert all("cannot connect" in message for message in failures(S3Store("bucket")))


def test_no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert all("no credentials found; set AWS_PROFILE" in message for message in failures(S3Store(s3_bucket)))


def test_a_profile_or_endpoint_that_is_wrong(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:hunter2@host")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL is not a URL") as caught:
        S3Store(s3_bucket).get("x")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="ProfileNotFound"):
        S3Store(s3_bucket).get("x")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(403, "AccessDenied", "allow s3:GetObject"), (403, "InvalidAccessKeyId", "credentials refused"),
     (403, "SignatureDoesNotMatch", "credentials refused"), (400, "ExpiredToken", "credentials refused"),
     (400, "SomethingElse", "SomethingElse")],
)  # fmt: skip
def test_refusals_are_explained_and_secrets_kept(
    s3: S3Store, intercept: Callable[..., None], status: int, code: str, expected: str
) -> None:
    intercept([answer(status, code)] * 10, "before-send.s3")
    assert all(expected in message for message in failures(s3))


def test_hostile_names_in_a_bucket_are_not_listed(s3: S3Store) -> None:
    for key in ("t/a/../b", "t/ä", "t/ok"):
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=b"")
    assert s3.list("t/") == ["t/ok"]
    assert s3.list("t/", limit=1) == ["t/ok"]


def test_encryption_and_retention_are_asked_for(s3: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small objects, conditional ones and those sent in parts."""
    monkeypatch.setattr("cluster.storage.s3.ONE_PUT_BYTES", 16 << 20)
    bucket = f"locked-{uuid.uuid4().hex}"
    s3.client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    (tmp_path / "large").write_bytes(bytes((16 << 20) + 1))
    store = open_store(f"s3://{bucket}/a?sse=aws:kms&kms_key=key-1&lock_mode=GOVERNANCE&lock_days=30")
    asked: list[Any] = []
    for operation in ("PutObject", "CreateMultipartUpload"):
        store.client.meta.events.register(f"before-call.s3.{operation}", lambda params, **_: asked.append(params))
    store.put("put", b"1")
    assert store.put_if_absent("new", b"2")
    assert store.upload("large", tmp_path / "large").size == (16 << 20) + 1
    for key in ("put", "new", "large"):
        head = s3.client.head_object(Bucket=bucket, Key=f"a/{key}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "key-1")
    for headers in [params["headers"] for params in asked]:  # moto's answers leave retention out
        assert headers["x-amz-object-lock-mode"] == "GOVERNANCE"
        until = datetime.fromisoformat(headers["x-amz-object-lock-retain-until-date"])
        assert 29.9 < (until - datetime.now(UTC)).total_seconds() / 86400 <= 30
    assert len(asked) == 3 and all("Content-MD5" in params["headers"] for params in asked[:2])
    head = s3.client.head_object(Bucket=s3.bucket, Key=(s3.put("plain", b""), "plain")[1])
    assert "SSEKMSKeyId" not in head and "ObjectLockMode" not in head


@pytest.mark.parametrize(("near_bytes_per_s", "ranges"), [(0.0, 0), (math.inf, 3)])
def test_a_slow_stream_is_left_for_parts(
    s3: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near_bytes_per_s: float, ranges: int
) -> None:
    """34 MiB: one request, or one that is left after a sample of 1 MiB, and the other 33 MiB in parts of 16."""
    monkeypatch.setattr("cluster.storage.s3.SAMPLE_BYTES", 1 << 20)
    monkeypatch.setattr("cluster.storage.s3.NEAR_BYTES_PER_S", near_bytes_per_s)
    (tmp_path / "file").write_bytes(data := os.urandom(34 << 20))
    sent = s3.upload("file", tmp_path / "file")
    asked: list[Any] = []
    note = lambda params, **_: asked.append(params["headers"].get("Range"))  # noqa: E731
    s3.client.meta.events.register("before-call.s3.GetObject", note)
    assert s3.download("file", tmp_path / "got") == sent == (len(data), hashlib.sha256(data).hexdigest())
    s3.client.meta.events.unregister("before-call.s3.GetObject", note)
    assert (tmp_path / "got").read_bytes() == data
    assert asked[0] is None and len(asked) == 1 + ranges and all(asked[1:])
