"""An entry is canonical JSON, which other tools can read, and never changes."""

import dataclasses
import getpass
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.log.entry import UNSCORED
from orchestrator.track.track import Track
from tests.support.entries import COMMIT, Raw
from tests.support.logs import file_of, fill


def test_entries_as_other_tools_read_them(track: Track) -> None:
    before = datetime.now(UTC)
    fill(track, 3)
    contents = [file_of(track, seq).read_bytes() for seq in (1, 2, 3)]
    documents = [json.loads(content) for content in contents]
    for number, document in enumerate(documents):
        assert document.keys() == {"seq", "prev_sha256", "nonce", "actor", "time", "op", "score", *COMMIT}
        assert document["seq"] == number + 1 and document["op"] == "commit" and document["task"] == f"täsk {number}"
        assert document["actor"].startswith(f"{getpass.getuser()}@")
        assert timedelta(seconds=-1) < datetime.fromisoformat(document["time"]) - before < timedelta(seconds=30)
        plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert contents[number] == plain.encode()
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    assert [document["prev_sha256"] for document in documents] == ["", *digests[:2]]
    assert len({document["nonce"] for document in documents}) == 3
    assert track.store.list("t/")[0] == "t/team/stream/log/0999999997.json"


def test_what_is_appended_is_what_is_read(track: Track) -> None:
    body = {"tuple": (1, 2.5), "nested": {10: "a", 9: "b"}, "text": "ü \\udc80 \udc80 \U0001f600", "none": None}
    entry = track.append(Raw("note", body), after=None)
    assert entry == track.head()
    assert entry.body == {**body, "tuple": [1, 2.5], "nested": {"10": "a", "9": "b"}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.seq = 2  # type: ignore[misc]


@pytest.mark.parametrize("body", [{"seq": 1}, {"actor": "me"}, {"x": float("nan")}, {"x": [float("inf")]}])
def test_bodies_that_are_refused(track: Track, body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"may not hold|not JSON compliant"):
        track.append(Raw("commit", body), after=None)
    assert track.entries() == []


def test_scores_of_what_was_not_scored_are_one_object(track: Track) -> None:
    """The rows of a long stream's commits hold a hundred thousand of them. What only looks alike stays what it is."""
    alike = [{"correct": None, "rows": False}, {"correct": None, "rows": 0.0}, {"correct": 0, "rows": 0}]
    row = [{"correct": None, "rows": 0}, {"correct": 1, "rows": 2}, {"correct": None, "rows": 0}, *alike]
    entry = track.append(Raw("note", {"row": row}), after=None)
    (read,) = track.raw_entries()
    for found in (entry.body["row"], read.body["row"]):
        assert isinstance(found, list) and json.dumps(found) == json.dumps(row)
        assert found[0] is found[2] is UNSCORED
