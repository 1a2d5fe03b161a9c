"""What may pass is tried again until patience ends; what is hopeless is tried once."""

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import ConfigError, StoreError
from cluster.storage import S3Store
from tests.support.answers import answer


@pytest.mark.parametrize("failures", [1, 3, 7, 20])
def test_refusals_that_pass_are_retried(s3: S3Store, intercept: Callable[..., None], clock: Any, failures: int) -> None:
    mixed = [answer(409, "ConditionalRequestConflict"), answer(500, "InternalError"), answer(503, "SlowDown")]
    intercept(left := (mixed * failures)[:failures])
    assert s3.put_if_absent("k", b"mine") and not left
    assert s3.get("k") == b"mine"


@pytest.mark.parametrize(
    ("patience_s", "refusal"), [(0, (500, "InternalError")), (7, (503, "SlowDown")), (120, (409, "OperationAborted"))]
)
def test_patience_ends(
    s3: S3Store, intercept: Callable[..., None], clock: Any, patience_s: int, refusal: tuple[int, str]
) -> None:
    os.environ["ORTHOPLEX_STORE_PATIENCE_S"] = str(patience_s)  # which `clock` puts back
    intercept(left := [answer(*refusal)] * 1000)
    with pytest.raises(StoreError, match=f"{refusal[1]}.*tried for"):
        s3.put_if_absent("k", b"mine")
    assert patience_s - 5 <= clock.now <= patience_s
    assert 1000 - len(left) >= 1 + patience_s / 5  # no pause is longer than 5 s
    assert s3.list("") == []


@pytest.mark.parametrize("patience", ["-1", "nan", "soon", "inf"])
def test_patience_that_is_none(s3: S3Store, monkeypatch: pytest.MonkeyPatch, patience: str) -> None:
    monkeypatch.setenv("ORTHOPLEX_STORE_PATIENCE_S", patience)
    with pytest.raises(ConfigError, match=f"ORTHOPLEX_STORE_PATIENCE_S='{patience}'.*seconds"):
        s3.get("k")


@pytest.mark.parametrize("status", [400, 403, 404, 501])
def test_what_is_hopeless_is_tried_once(s3: S3Store, intercept: Callable[..., None], clock: Any, status: int) -> None:
    for operation, call in {
        "PutObject": lambda: s3.put_if_absent("k", b"mine"),
        "GetObject": lambda: s3.get("k"),
        "ListObjectsV2": lambda: s3.list("k"),
        "DeleteObject": lambda: s3.delete("k"),
    }.items():
        intercept(left := [answer(status, "Refused")] * 3, f"before-send.s3.{operation}")
        with pytest.raises(StoreError, match="Refused"):
            call()
        assert len(left) == 2 and clock.now == 0


def test_a_wait_is_told(s3: S3Store, intercept: Callable[..., None], clock: Any, caplog: Any) -> None:
    intercept([answer(503, "SlowDown")] * 20)
    s3.put("k", b"")
    assert len(caplog.records) == 1
    assert re.search(r"SlowDown.*trying for another 11\d s", caplog.text)
