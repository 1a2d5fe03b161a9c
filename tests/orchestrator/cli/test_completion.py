"""What a shell is offered behind a verb, and that it hears of no error."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import completion
from tests.support.command_line import Orthoplex, here


def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What a shell is offered for the last word."""
    with monkeypatch.context() as patch:
        patch.setenv(completion.VARIABLE, "complete_bash")
        patch.setenv("COMP_WORDS", "\n".join(["orthoplex", *words]))
        patch.setenv("COMP_CWORD", str(len(words)))
        result = here(patch, capsys)
    assert result.err == ""
    return result.out.split()


@pytest.fixture
def store(tmp_path: Path, fake_run: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    run = fake_run("a", "b")
    run.commit([0.5, 0.5])
    run.commit([0.5, 0.5])
    run.append("promote", {"alias": "production", "version": 1, "expect": 0})
    fake_run("a", team="blue", name="other")
    fake_run("a", team="red", name="other")
    monkeypatch.setenv("ORTHOPLEX_STORE", str(run.root))
    return str(run.root)


def test_names_of_runs(store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert offered(monkeypatch, capsys, "status", "") == ["blue/other", "stream", "red/other"]
    assert offered(monkeypatch, capsys, "explain", "str") == ["stream"]
    assert offered(monkeypatch, capsys, "logs", "default/") == ["default/stream"]
    assert offered(monkeypatch, capsys, "status", "--store", "elsewhere", "") == []
    assert not Path("elsewhere").exists()


def test_names_of_adapters(store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert offered(monkeypatch, capsys, "predict", "str") == ["stream@"]
    assert offered(monkeypatch, capsys, "predict", "stream@") == ["stream@production", "stream@v2", "stream@v1"]
    assert offered(monkeypatch, capsys, "adapters", "export", "default/stream@v") == [
        "default/stream@v2", "default/stream@v1",
    ]  # fmt: skip
    assert offered(monkeypatch, capsys, "eval", "nobody@") == []


def test_names_of_tasks(store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert offered(monkeypatch, capsys, "status", "stream", "--task", "") == ["a", "b"]
    assert offered(monkeypatch, capsys, "logs", "stream", "--task", "b") == ["b"]
    assert offered(monkeypatch, capsys, "curves", "nobody", "--task", "") == []


def test_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"status", "submit", "sweep"} <= {*offered(monkeypatch, capsys, "s")}
    assert offered(monkeypatch, capsys, "adapters", "rol") == ["rollback"]


def test_a_store_that_fails_or_takes_long_completes_nothing(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completion, "PATIENCE_S", 0.05)
    monkeypatch.setattr(completion, "names", lambda *_: time.sleep(0.5))
    assert offered(monkeypatch, capsys, "status", "") == []
    monkeypatch.setenv("ORTHOPLEX_STORE", "http://no/store")
    assert offered(monkeypatch, capsys, "status", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(orthoplex: Orthoplex, shell: str) -> None:
    code, out, err = orthoplex("completion", shell)
    assert (code, err) == (0, "") and completion.VARIABLE in out and "orthoplex" in out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=out, text=True, check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_what_stands_behind_the_sign(tmp_path: Path) -> None:
    """bash splits words at @ and replaces the last part alone."""
    called = tmp_path / "orthoplex"
    called.write_text('#!/bin/sh\nprintf "%s|" "$COMP_WORDS" "$COMP_CWORD" > asked\necho stream@v1; echo stream@v2\n')
    called.chmod(0o755)
    script = f'{completion.BASH}\nCOMP_LINE="orthoplex predict stream@v"; COMP_POINT=${{#COMP_LINE}}\n'
    script += '_orthoplex_completion; printf "%s\\n" "${COMPREPLY[@]}"'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["v1", "v2"]
    assert (tmp_path / "asked").read_text() == "orthoplex\npredict\nstream@v|2|"
