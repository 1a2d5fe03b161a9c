"""`-h`, `-v` and `-q` of every command."""

import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cli.flags import below
from orchestrator.cli.main import command
from orchestrator.console.run import RunReporter
from orchestrator.console.volume import own_volume, volume
from tests.support.command_line import Orthoplex, here
from trainers.messages import Progress


def test_every_command_has_them() -> None:
    for each in below(command()):
        options = [name for parameter in each.params for name in parameter.opts]
        assert [options.count(name) for name in ("-v", "--verbose", "-q", "--quiet")] == [1, 1, 1, 1], each.name


@pytest.mark.parametrize("words", [(), ("status",), ("adapters",), ("adapters", "list"), ("jobs", "stop")])
def test_help_is_short_too(orthoplex: Orthoplex, words: tuple[str, ...]) -> None:
    code, out, err = orthoplex(*words, "-h")
    assert (code, err) == (0, "") and (code, out, err) == orthoplex(*words, "--help")
    assert re.search(r"-v, --verbose +\S", out) and re.search(r"-q, --quiet +\S", out)


def test_quiet_leaves_notes_and_hints_out(orthoplex: Orthoplex, fake_run: Any) -> None:
    run = fake_run("a")
    run.append("ballad")
    run.commit([0.5], zero_shot=[0.5])
    run.append("finish")
    plain, quiet = (orthoplex("status", "stream", "--store", run.root, *flag) for flag in ((), ("-q",)))
    assert "left out (ballad" in plain.err and "note: task a: nothing was learned" in plain.out
    assert quiet.err == "" and "note:" not in quiet.out and "│ a " in quiet.out
    assert quiet == orthoplex("-q", "status", "stream", "--store", run.root)


def test_verbose_shows_where_an_error_is_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    code, _, err = here(monkeypatch, capsys, "status", "nobody", "--store", "nowhere", "-v")
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("orthoplex: RUN 'nobody'")
    code, _, err = here(monkeypatch, capsys, "status", "nobody", "--store", "nowhere")
    assert code == 2 and len(err.splitlines()) == 1


def lines_of(act: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with own_volume():
        act()
        with RunReporter(1) as reporter:
            reporter.say("reading")
            for step in (10, 11, 90):
                reporter.progress("a", Progress(0, "train", step, 100, functional=0.5 if step == 90 else float("nan")))
    return capsys.readouterr().out.splitlines()


def test_progress_by_volume(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a quarter, or a step, or none. The functional penalty stands there if there is one."""
    plain = lines_of(lambda: None, capsys)
    assert len(plain) == 3 and "functional" not in plain[1] and "functional 5.00e-01" in plain[2]
    assert len(lines_of(volume.louder, capsys)) == 4 and lines_of(volume.lower, capsys) == []


def test_what_libraries_say(caplog: pytest.LogCaptureFixture) -> None:
    """Quiet lets errors through; verbose, what Orthoplex's own loggers say too. Neither outlasts the command."""
    library, own = logging.getLogger("a.library"), logging.getLogger("orthoplex.store")
    before = logging.getLogger("orthoplex").level
    with own_volume():
        volume.lower()
        library.warning("a warning")
        library.error("an error")
        with warnings.catch_warnings(record=True) as found:
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        assert found == [] and [record.getMessage() for record in caplog.records] == ["an error"]
        volume.louder()
        own.info("trying again")
        assert caplog.records[-1].getMessage() == "trying again" and not volume.quiet
    assert (volume.verbose, volume.quiet, logging.getLogger("orthoplex").level) == (False, False, before)
    assert logging.root.manager.disable == 0
