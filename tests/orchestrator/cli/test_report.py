"""`orthoplex report`: a file, standard output, a run that is not there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.command_line import Orthoplex


def test_report(orthoplex: Orthoplex, begun: Any) -> None:
    code, out, err = orthoplex("report", "default/stream", "--store", begun.root)
    assert (code, out, err) == (0, "", "report: wrote stream.html\n")
    text = Path("stream.html").read_text("utf-8")
    assert text.startswith("<!doctype html>") and "default/stream" in text
    code, out, err = orthoplex("report", "stream", "--store", begun.root, "-o", "-")
    assert (code, err) == (0, "") and out.startswith("<!doctype html>") and out.endswith("</html>\n")


def test_refusals(refused: Callable[..., tuple[int, str]], begun: Any) -> None:
    assert "not in the store" in refused("report", "other", "--store", begun.root)[1]
    assert "cannot be written" in refused("report", "stream", "--store", begun.root, "-o", "no/folder/r.html")[1]
