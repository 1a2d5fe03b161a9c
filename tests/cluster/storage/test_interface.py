"""Keys that are not safe are refused by every store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import KeyAbsentError, StoreError
from cluster.storage import (
    Store,
    is_key,
)

HOSTILE = (
    "", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "a\\b", "a b", "a\n", "a\0b",
    "ä", "a:b", "~", "a/*", ".tmp/x", ".tmp", "x" * 513,
)  # fmt: skip


def test_hostile_keys_are_refused(store: Store, tmp_path: Path) -> None:
    for key in HOSTILE:
        assert not is_key(key)
        calls: list[Callable[[], Any]] = [
            lambda key=key: store.get(key),
            lambda key=key: store.put(key, b""),
            lambda key=key: store.put_if_absent(key, b""),
            lambda key=key: store.upload(key, Path(__file__)),
            lambda key=key: store.download(key, tmp_path / "target"),
            lambda key=key: store.delete(key),
        ]
        listing = [lambda key=key: store.list(key), lambda key=key: store.list_folders(key)]
        for call in calls + (listing if key not in ("", "a/") else []):
            with pytest.raises(StoreError, match=r"not safe") as caught:
                call()
            assert not isinstance(caught.value, KeyAbsentError)
    assert store.list("") == []
