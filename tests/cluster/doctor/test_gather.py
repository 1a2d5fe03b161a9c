"""What the doctor finds on this machine and in a store."""

import os
import time
from pathlib import Path

import pytest

from cluster.doctor.checks import GIB, findings
from cluster.doctor.gather import gather, parse_pins, read_pins, store_clock, unreachable
from cluster.errors import ConfigError
from cluster.storage import LocalStore, S3Store, probe


def test_pins_are_read() -> None:
    assert parse_pins("# c\nA_b==1.0  # why\nother>=2\n\nPyYAML==6.0.3\n") == {"a_b": "1.0", "pyyaml": "6.0.3"}
    assert read_pins()["ray"].startswith("2.60")


def test_gathering_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    facts = gather(store=str(tmp_path / "store"))
    assert facts.driver.facts and facts.driver.facts["packages"].keys() == set(facts.packages)
    assert facts.driver.facts["memory_bytes"] > GIB / 2 and facts.driver.facts["project"]
    assert facts.store and facts.store.error is None and facts.nodes == ()
    assert not [f for f in findings(facts) if f.level == "fail" and "store" in f.what]


def test_an_unwritable_store_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = findings(gather(store=str(tmp_path / "file/store")))
    assert [finding for finding in found if finding.level == "fail" and "cannot" in finding.what]


def test_clock_of_a_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    probe(store)
    clock = store_clock(store)
    assert abs(clock.ahead_s) <= clock.uncertainty_s + 0.05 and clock.uncertainty_s < 5


def test_clock_of_a_bucket(s3_bucket: str) -> None:
    store = S3Store(s3_bucket)
    clock = store_clock(store)
    assert abs(clock.ahead_s) <= clock.uncertainty_s + 0.1


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    assert "nothing answers" in (unreachable("127.0.0.1:9") or "") and time.monotonic() - begun < 6
    assert unreachable("auto") is None
    with pytest.raises(ConfigError, match="ray job submit"):
        gather(address="http://127.0.0.1:8265")
    assert os.environ.get("RAY_ADDRESS") != "http://127.0.0.1:8265"
