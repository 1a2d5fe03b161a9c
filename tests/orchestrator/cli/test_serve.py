"""`orthoplex serve` before anything starts; what it serves is tested in tests/orchestrator/serve."""

from typing import Any

import pytest

from orchestrator.cli import completion
from tests.support.command_line import Orthoplex, here


def test_an_address_that_is_none(orthoplex: Orthoplex, fake_run: Any) -> None:
    run = fake_run("a")
    code, out, err = orthoplex("serve", "stream@v1", "--store", run.root, "--address", "nowhere")
    assert (code, out) == (2, "") and "'nowhere'" in err and "HOST:PORT" in err


def test_adapters_are_completed(
    fake_run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake_run("a")
    run.commit([0.5])
    monkeypatch.setenv("ORTHOPLEX_STORE", str(run.root))
    monkeypatch.setenv(completion.VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "orthoplex\nserve\nstream@")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert here(monkeypatch, capsys).out == "stream@v1\n"
