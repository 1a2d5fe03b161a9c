"""`benchmarks.predicting_million` over a few rows: what it finds, and that it goes on where it was."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import predicting_million
from tests.support.command_line import HAS_MINILM
from tests.support.tiny_models import save_encoder

pytestmark = pytest.mark.skipif(not HAS_MINILM, reason="needs the extra offline")


def test_a_part_that_is_written_again_is_seen(tmp_path: Path) -> None:
    parts = predicting_million.Parts(output=tmp_path / "o.jsonl", form="jsonl", size=2)
    assert predicting_million.seen(parts) == {}
    parts.folder.mkdir()
    for number in range(2):
        parts.put(number, b"{}\n{}\n")
    before = predicting_million.seen(parts)
    parts.put(1, b"{}\n{}\n")
    after = predicting_million.seen(parts)
    assert [name for name in before if before[name] != after[name]] == [parts.part(1).name]


@pytest.mark.slow
def test_rows_are_predicted_once_though_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_encoder(tmp_path / "base")
    command = ["predicting_million", "--base", str(base), "--work", str(tmp_path / "work"), "--rows", "24000",
               "--sample", "500", "--loop", "1000", "--turns", "2", "--batch", "256", "--kill-at", "0.2",
               "--device", "cpu"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    predicting_million.main()
    stages = {each["stage"]: each for line in capsys.readouterr().out.splitlines() if line[:1] == "{"
              for each in [json.loads(line)]}  # fmt: skip
    assert [*stages] == ["adapter", "rows", "killed", "again", "checked", "same", "turns"]
    assert 2 <= len(stages["killed"]["parts"]) < 12 and stages["again"]["written_again"] == 0
    assert stages["checked"]["rows"] == 24_000 and len(stages["same"]["labels"]) > 1
    assert stages["turns"]["predict_by_loop"] > 0
    predicting_million.main()  # nothing is left to do
    assert json.loads(capsys.readouterr().out.splitlines()[3]) == stages["again"]
