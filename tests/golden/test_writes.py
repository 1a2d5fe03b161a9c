"""What is logged today has the keys and types of what was recorded, for all that is done with a store by hand."""

import json
from pathlib import Path

import pytest
import yaml

from tests.golden.golden import GOLDEN, Recorded, body_of, logged, misfits, publish_files
from tests.support.fake_workers import finished_run, write_files
from tests.support.keys import public_pem, sign_with

EXPECTED = json.loads((GOLDEN / "expected_bodies.json").read_text())


@pytest.mark.parametrize("signed", [False, True])
def test_bodies_of_what_people_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: bool) -> None:
    """Unsigned, and where the team's rules ask for signatures."""
    made = Recorded(tmp_path.resolve())
    finished_run(tmp_path / "store", monkeypatch)
    rules = {"promotion": {"production": {"max_forgetting": 1.0, "max_active_parameters": 1000}}}
    if signed:
        sign_with(tmp_path / "key.pem", monkeypatch)
        rules |= {"signatures": "required", "keys": {"me": {"public_key": public_pem(tmp_path / "key.pem")}}}  # type: ignore[dict-item]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    made.printed("adapters", "rules", "default", "--set", "rules.yaml", "--why", "a bound")
    made.printed("adapters", "promote", "stream@v1", "--alias", "production")
    made.printed("adapters", "promote", "stream@v2", "--alias", "production", "--why", "better")
    made.printed("adapters", "rollback", "stream@production")
    (tmp_path / "store/t/default/stream/v" / ("0" * 32)).mkdir()
    (tmp_path / "store/t/default/stream/v" / ("0" * 32) / "left.bin").write_bytes(b"left over")
    made.printed("adapters", "gc", "stream", "--grace", "1h", "--yes")
    made.printed("adapters", "gc", "stream", "--grace", "0s", "--yes")
    made.printed("adapters", "gc", "stream", "--delete", "2", "--yes", "--why", "not the one")
    (tmp_path / "files").mkdir()
    write_files(tmp_path / "files", 0)
    publish_files(made.store, "default", "published", tmp_path / "files")
    made.printed("adapters", "index", "published")
    made.printed("adapters", "verify")
    logs = logged(tmp_path / "store")
    assert misfits(EXPECTED, logs) == []
    ops = [body_of(data)[0] for data in logs["t/default/stream/log"]]
    assert ops[7:] == ["promote", "promote", "rollback", "orphans", "abort", "delete"]
    assert [body_of(data)[0] for data in logs["t/default/published/log"]] == ["commit", "index"]
    assert [body_of(data)[0] for data in logs["t/default/.policy/log"]] == ["rules"]
