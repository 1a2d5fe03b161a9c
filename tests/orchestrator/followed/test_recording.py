"""From an evaluation to a record: what is told of files and metrics."""

import hashlib
from pathlib import Path

from orchestrator.followed.recording import digests_of, record
from orchestrator.followed.records import records_of
from orchestrator.registry.references import Version
from tests.orchestrator.followed.conftest import evaluated


def test_files_by_name_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\n")
    wanted = hashlib.sha256(b"text,label\n").hexdigest()
    assert digests_of([path], ["*.csv"]) == {str(path): wanted}
    assert digests_of([path], ["-"]) == {"-": wanted}


def test_what_a_task_of_loss_records(version: Version) -> None:
    """No interval, the loss as its score, row scores from 0 to 1."""
    made = evaluated([0.5, 0.25], loss=True)
    record(version, made, asked="", files={}, settings={"max_new_tokens": 3}, seconds=0.12345)
    ((_, found),) = records_of(version.track).records()
    assert found.metric == "nll" and found.interval is None and found.asked == "" and found.note == ""
    assert found.settings == {"max_new_tokens": 3} and found.seconds == 0.123
    assert "note" not in found.body() and records_of(version.track).values(found).tolist() == [0.5, 0.25]
