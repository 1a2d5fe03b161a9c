"""The options of a bucket in its URI."""

import pytest

from cluster.errors import ConfigError
from cluster.storage import (
    open_store,
)


@pytest.mark.parametrize(
    ("query", "message"),
    [("x=hunter2", "'x' is no option.*sse, kms_key, lock_mode, lock_days"), ("sse", "option=value"),
     ("sse=none", "sse='none': use one of AES256"), ("kms_key=k", "kms_key needs sse=aws:kms"),
     ("lock_mode=GOVERNANCE", "go together"), ("lock_days=3", "go together"), ("lock_mode=x&lock_days=1", "GOVERNANCE"),
     ("lock_mode=GOVERNANCE&lock_days=-1", "whole number"), ("sse=AES256&sse=AES256", "twice")],
)  # fmt: skip
def test_options_that_are_none(query: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(f"s3://bucket/a?{query}")
    assert "hunter2" not in str(caught.value)
