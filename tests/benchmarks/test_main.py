import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.methods import __main__ as command
from benchmarks.methods import results
from tests.support.method_cells import made_plan, put


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the command with a small plan and a results file in the folder; returns what it printed."""
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(made_plan().model_dump(mode="json")))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        files = ["--config", "plan.yaml", "--results", "found.jsonl", "--cpu"]
        monkeypatch.setattr(sys, "argv", ["methods", *files, *words])
        command.main()
        return capsys.readouterr().out

    return call


def test_the_listing_counts_what_is_missing_and_for_how_long(called: Any) -> None:
    listed = called("--plan", "--jobs", "2").splitlines()
    assert "ab: rival: 2 × 60 s" in listed and "ba: ours: 2 × 120 s" in listed
    assert "ba: rival, seed 0: waits for tuning" in listed
    assert listed[-1].startswith(
        "7 cells to measure, 2 after tuning, 0 that cannot be run: about 6 minutes with 2 at once"
    )


def test_a_part_is_asked_for_by_methods_streams_groups_and_seeds(called: Any) -> None:
    listed = called("--plan", "--only", "ours,bound", "--streams", "pairs", "--seeds", "1").splitlines()
    assert listed[:-1] == ["ab: ours: 1 × 60 s", "ba: ours: 1 × 120 s"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "nobody"), "--only: 'nobody' is not in plan.yaml; there are bound, ours, rival"),
        (("--streams", "cd"), "--streams: 'cd' is not in plan.yaml; there are ab, ba"),
        (("--seeds", "one"), "--seeds: 'one': expected numbers"),
    ],
)
def test_what_is_not_there_is_refused(called: Any, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        called("--plan", *words)


def test_lines_of_another_machine_are_merged_and_shown(called: Any, tmp_path: Path) -> None:
    lines: dict[str, Any] = {}
    put(lines, made_plan(), "ours/ab/0", (0.5, 1.0))
    for line in lines.values():
        results.append(tmp_path / "other.jsonl", line)
    assert called("--merge", "other.jsonl") == "1 lines added to found.jsonl\n"
    assert "**75.0**" in called("--table") and "wrote page.md" in called("--write", "page.md")
