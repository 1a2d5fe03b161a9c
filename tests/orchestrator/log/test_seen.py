"""The memory of what a log held: the newest counts, whoever notes it, and where it cannot be kept things go on."""

import threading
from pathlib import Path

import pytest

from cluster.errors import StoreError
from cluster.storage.disk import state_folder
from orchestrator.log.seen import Seen


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    return Seen("s3://bucket/x", "t/team/stream")


def test_the_newest_counts(seen: Seen) -> None:
    assert seen.recall() == (0, "")
    numbers = [3, 9, 1, 7, 8, 2]
    threads = [threading.Thread(target=seen.remember, args=(number, f"digest {number}")) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.recall() == (9, "digest 9")
    assert Seen("s3://bucket/y", seen.root).recall() == Seen(seen.uri, "t/team/other").recall() == (0, "")
    seen.forget()
    assert seen.recall() == (0, "") and [p.name for p in seen.path.parent.iterdir()] == [".lock"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"seq":"x","sha256":""}', b"\xff"])
def test_a_memory_that_cannot_be_read(seen: Seen, content: bytes) -> None:
    seen.remember(1, "a")
    seen.path.write_bytes(content)
    with pytest.raises(StoreError, match="remove it to start anew"):
        seen.recall()


def test_where_nothing_can_be_written(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="ORTHOPLEX_STATE: cannot write"):
        seen.remember(1, "a")
    monkeypatch.delenv("ORTHOPLEX_STATE")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    seen.remember(1, "a")
    assert seen.recall() == (0, "") and state_folder() == tmp_path / "file/.cache/orthoplex"
