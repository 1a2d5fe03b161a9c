"""`orthoplex curves`: in the terminal, as JSON and as a picture."""

import json
from pathlib import Path
from typing import Any

from tests.support.command_line import Orthoplex


def test_curves(orthoplex: Orthoplex, begun: Any) -> None:
    code, out, err = orthoplex("curves", "stream", "--store", begun.root, "--png", "c.png")
    assert (code, err) == (0, "") and Path("c.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "a (default/stream@v1), logged from step 10 to 20" in out and out.endswith("wrote c.png\n")
    shown = json.loads(orthoplex("curves", "stream", "--store", begun.root, "--json", "--task", "b").out)
    assert [(each["task"], each["steps"], each["figures"]["loss"]) for each in shown] == [("b", [10, 20], [0.5, None])]
    code, _, err = orthoplex("curves", "stream", "--store", begun.root, "--png", "no/folder/c.png")
    assert code == 2 and "cannot be written" in err
    code, _, err = orthoplex("curves", "stream", "--store", begun.root, "--task", "c")
    assert code == 2 and "no such task; it has a, b" in err


def test_before_the_first_task(orthoplex: Orthoplex, fake_run: Any) -> None:
    run = fake_run("a")
    code, out, err = orthoplex("curves", "stream", "--store", run.root, "--png", "c.png")
    assert (code, err) == (0, "") and "no task is committed yet" in out and not Path("c.png").exists()
