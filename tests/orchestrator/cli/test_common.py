"""How each verb finds a store and a run in it."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.common import only_our_output
from orchestrator.console.screen import out as screen
from tests.support.command_line import Orthoplex


def test_the_store_may_come_from_the_environment(
    orthoplex: Orthoplex, begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORTHOPLEX_STORE", str(begun.root))
    assert orthoplex("status", "stream").code == 0


@pytest.mark.parametrize("verb", ["status", "explain"])
def test_an_unknown_run(
    refused: Callable[..., tuple[int, str]], fake_run: Callable[..., Any], tmp_path: Path, verb: str
) -> None:
    store = tmp_path / "store"
    end = "(--store names another store)"
    assert refused(verb, "x", "--store", store) == (2, f"RUN 'x': not in the store {store}, which holds no runs {end}")
    fake_run("a", name="stream")
    assert refused(verb, "steam", "--store", store) == (
        2, f"RUN 'steam': not in the store {store}, did you mean 'stream'? {end}",
    )  # fmt: skip
    assert refused(verb, "../x y", "--store", store) == (
        2, f"RUN '../x y': not in the store {store}, which holds default/stream {end}",
    )  # fmt: skip
    fake_run("a", name="stream", team="other")
    assert refused(verb, "stream", "--store", store) == (
        2, "RUN 'stream': several teams have one; give one of default/stream, other/stream",
    )  # fmt: skip
    assert refused(verb, "x", "--store", "gs://x") == (
        2, "store 'gs://x': use a path, file:///path, s3://bucket or s3://bucket/prefix",
    )  # fmt: skip
    (tmp_path / "file").touch()
    code, message = refused(verb, "x", "--store", tmp_path / "file")
    assert code == 1 and "Not a directory" in message


def test_only_the_commands_own_output_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """A logger made within, as DeepSpeed's is on import, writes to standard error afterwards too. Screens stay."""
    with only_our_output():
        print("from a library")
        screen.print("a screen")
        logger = logging.Logger("DeepSpeed")
        logger.addHandler(logging.StreamHandler(stream=sys.stdout))
    logger.warning("accelerator: CPU")
    screen.print("ours")
    assert capsys.readouterr() == ("a screen\nours\n", "from a library\naccelerator: CPU\n")


def test_that_deepspeed_has_found_no_gpu_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The logger is made anew on import, with a level and a handler of its own."""
    logger = logging.getLogger("DeepSpeed")
    with only_our_output():
        handler = logging.StreamHandler(stream=sys.stdout)
        logger.addHandler(handler)
    try:
        logger.warning("Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it.")
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr() == ("", "something else\n")
