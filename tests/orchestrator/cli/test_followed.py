"""`orthoplex trend`, on scores that were recorded without a model."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.delivery.repertoire import version_of
from orchestrator.followed.recording import record
from tests.orchestrator.followed.conftest import evaluated
from tests.support.command_line import Orthoplex

GOOD, BAD = [1] * 45 + [0] * 5, [1] * 30 + [0] * 20


@pytest.fixture
def scored(begun: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setenv("ORTHOPLEX_STORE", begun.track.store.uri)

    def call(values: Any, **how: Any) -> None:
        version = version_of(begun.track.store, "default/stream@v2")
        record(version, evaluated(values, **how), asked="", files={"x.csv": "f" * 64}, settings={}, seconds=1)

    return call


def test_trend_shows_what_drifted(orthoplex: Orthoplex, scored: Any) -> None:
    code, out, err = orthoplex("trend", "stream")
    assert (code, out) == (2, "") and "eval default/stream@v1 --data FILE --record" in err
    scored(GOOD)
    code, out, err = orthoplex("trend", "stream")
    assert (code, err) == (0, "") and "one score is no trend yet" in out and "90.0" in out
    scored(BAD), scored(GOOD, rows="two"), scored([0.5, 0.25], task="b", loss=True)
    code, out, err = orthoplex("trend", "stream", "--task", "a")
    assert code == 0 and "-30.0 p<0.001" in out and "WORSE" in out and "~+0.0 p=1.000" in out
    assert "3 comparisons tested at level 0.01 (McNemar, exact, Fisher, exact); by chance 0.03" in out
    assert "nats per token" in orthoplex("trend", "stream", "--task", "b").out
    found = json.loads(orthoplex("trend", "stream", "--json").out)
    assert [each["task"] for each in found["series"]] == ["a", "b"] and found["track"] == "default/stream"
    assert found["series"][0]["points"][1]["since_first"]["changed"] == 15


def test_drift_ends_with_3_if_asked(orthoplex: Orthoplex, scored: Any) -> None:
    scored(GOOD), scored(GOOD)
    assert orthoplex("trend", "stream", "--fail-on-drift").code == 0
    scored(BAD)
    code, out, err = orthoplex("trend", "stream", "--fail-on-drift")
    assert code == 3 and "drift: a: accuracy 0.6 of default/stream@v2; worse than noise explains at p < 0.01" in err
    assert "drift: default/stream@v2 is worse" in out
    assert orthoplex("trend", "stream", "--fail-on-drift", "--level", "1e-7").code == 0


def test_verify_reads_recorded_scores_too(orthoplex: Orthoplex, scored: Any, begun: Any) -> None:
    scored(GOOD)
    code, out, err = orthoplex("adapters", "verify")
    assert code == 0 and "default/stream records: 1 entry, 0 versions, 1 file" in out
    (path,) = begun.root.glob("t/default/.records/stream/v/*/rows.parquet")
    path.write_bytes(b"x")
    code, out, err = orthoplex("adapters", "verify", "stream")
    assert code == 1 and "rows.parquet: was changed" in err


def test_review_as_text_page_and_json(orthoplex: Orthoplex, scored: Any) -> None:
    scored(GOOD), scored(BAD)
    orthoplex("adapters", "promote", "stream@v2", "--alias", "production", "--why", "it is better")
    code, out, err = orthoplex("review")
    assert (code, err) == (0, "") and "2 tasks learned, 1 move of aliases" in out and "it is better" in out
    assert "1 of 1 recorded series worse than noise explains" in out
    assert len(json.loads(orthoplex("review", "stream", "--json").out)["moved"]) == 1
    for name, begin in (("page.html", "<!doctype html>"), ("page.md", "# default/stream")):
        code, out, err = orthoplex("review", "stream", "-o", name)
        assert (code, out, err) == (0, "", f"wrote {name}\n") and Path(name).read_text().startswith(begin)
    assert "0 tasks learned" in orthoplex("review", "--to", "2001-01-01").out
    code, out, err = orthoplex("review", "-o", "page.pdf")
    assert code == 2 and "ends in '.pdf'; a page is .html or .md" in err
    assert "holds no runs of team nobody" in orthoplex("review", "--team", "nobody").err


def test_evidence_is_packed_and_verified_elsewhere(
    orthoplex: Orthoplex, scored: Any, begun: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(GOOD)
    code, out, err = orthoplex("evidence", "stream", "-o", "e.tar")
    assert (code, err) == (0, "") and out.startswith("wrote e.tar: default/stream, ")
    sha256 = out.strip().rpartition(" ")[2]
    code, out, err = orthoplex("evidence", "stream", "-o", "e.tar")
    assert code == 2 and "exists already; choose another path, or replace it with --force" in err
    before = Path("e.tar").read_bytes()
    assert orthoplex("evidence", "stream", "-o", "e.tar", "--force").code == 0
    assert Path("e.tar").read_bytes() == before  # with its report
    with tarfile.open("e.tar") as archive:
        page = archive.extractfile("report.html").read().decode()  # type: ignore[union-attr]
    assert page.startswith("<!doctype html>") and "default/stream" in page and 'id="answers"' not in page
    begun.root.rename(tmp_path / "gone")
    monkeypatch.delenv("ORTHOPLEX_STORE")
    code, out, err = orthoplex("verify", "e.tar")
    assert (code, err) == (0, "") and f"contents.json: sha256 {sha256}, not signed" in out
    assert "default/stream: 4 entries, 2 versions, 2 files: whole" in out and "signatures: not asked for" in out
    made = json.loads(orthoplex("verify", "e.tar", "--json").out)
    assert made["faults"] == [] and made["heads"]["default/stream"]["seq"] == 4
    data = bytearray(Path("e.tar").read_bytes())
    data[data.find(b"PAR1") + 5] ^= 1
    Path("e.tar").write_bytes(data)
    code, out, err = orthoplex("verify", "e.tar")
    assert code == 1 and "1 fault found" in err and ".parquet: was changed" in err
    assert orthoplex("verify", "absent.tar").code == 2


def test_a_move_stands_if_nobody_hears_of_it(orthoplex: Orthoplex, begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.followed.webhook.WAIT_S", 0.01)
    monkeypatch.setenv("ORTHOPLEX_STORE", begun.track.store.uri)
    how = ("--alias", "production", "--webhook", "http://127.0.0.1:9/x")
    code, out, err = orthoplex("adapters", "promote", "stream@v1", *how)
    assert code == 0 and "production is v1 now (entry 5)" in out
    assert err.startswith("warning: --webhook: 127.0.0.1 ") and "the log has the move (entry 5)" in err
    assert "production" in orthoplex("adapters", "list").out
    code, out, err = orthoplex("adapters", "promote", "stream@v2", "--alias", "production", "--webhook", "x")
    assert code == 2 and "begin it with http:// or https://" in err and "v2 now" not in out
