"""Ctrl-C and SIGTERM at many instants of a command's start: exit code 130, a word, nothing left. Ray is not started."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import leaving
from cluster.processes import users_of
from cluster.temporary import owned
from tests.support.tiny_run import REPO, config_file

CAUGHT = 1 << (signal.SIGTERM - 1)
SWALLOWS = """
import os, signal, time
from cluster.leaving import check, leaving
from cluster.temporary import temporary
with leaving(), temporary("left") as folder:
    try:
        {signals}
        time.sleep(5)
    except BaseException:  # as libraries do while they are imported
        pass
    {then}
    print("went on")
"""
TERM = "os.kill(os.getpid(), signal.SIGTERM)"


class Command:
    """A command in progress, with a folder of its own for temporary files."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "TMPDIR": str(self.temporary), "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        self.names = owned(self.process.pid)
        while not self.listens():
            assert self.process.poll() is None
            time.sleep(0.002)

    def listens(self) -> bool:
        """Whether it has come so far that SIGTERM is dealt with."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        caught = next((line for line in lines if line.startswith("SigCgt")), "0")
        return bool(int(caught.split()[-1], 16) & CAUGHT)

    def left(self) -> list[str]:
        """The names of its folders that are still there."""
        return [path.name for path in (*self.temporary.iterdir(), *Path("/tmp").glob(f"{self.names}*"))]

    def ended(self) -> tuple[int, str]:
        """Exit code and standard error."""
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.mark.parametrize(
    ("after_s", "numbers", "between_s"),
    [
        (0, [signal.SIGTERM], 0),
        (0.1, [signal.SIGINT], 0),
        (0.4, [signal.SIGTERM], 0),
        (0.8, [signal.SIGINT, signal.SIGINT], 0.001),
        (1.2, [signal.SIGTERM], 0),
        (1.7, [signal.SIGTERM, signal.SIGTERM, signal.SIGINT], 0.01),
        (2.5, [signal.SIGINT], 0),
    ],
)
def test_a_run_that_is_told_to_leave_before_ray_is_up(
    tmp_path: Path, after_s: float, numbers: list[signal.Signals], between_s: float
) -> None:
    """Mostly while it imports; a machine that is quick reads data then."""
    command = Command(tmp_path, "-m", "orthoplex", "run", str(config_file(tmp_path, 1, tmp_path / "store")))
    time.sleep(after_s)
    for number in numbers:
        command.process.send_signal(number)
        time.sleep(between_s)
    code, err = command.ended()
    assert code == 130 and "orthoplex: interrupted" in err and "Traceback" not in err, err
    assert err.count("\n") == 1 and not command.left()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after_s", "numbers"), [(0.2, [signal.SIGTERM]), (1.5, [signal.SIGINT, signal.SIGTERM])]
)  # fmt: skip
def test_a_run_that_is_told_to_leave_while_ray_starts(
    tmp_path: Path, after_s: float, numbers: list[signal.Signals]
) -> None:
    command = Command(tmp_path, "-m", "orchestrator", "run", str(config_file(tmp_path, 1, tmp_path / "store")))
    while not (found := [*Path("/tmp").glob(f"{command.names}*/r")]):
        assert command.process.poll() is None
        time.sleep(0.01)
    folder = found[0].parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    time.sleep(after_s)
    assert users_of(folder)  # Ray's own processes
    for number in numbers:
        command.process.send_signal(number)
        time.sleep(0.05)
    code, err = command.ended()
    assert code == 130 and err.startswith("orthoplex: interrupted") and "Traceback" not in err, err
    assert not command.left() and not users_of(folder)


@pytest.mark.parametrize(
    ("signals", "then", "expected"),
    [
        (TERM, "check()", (130, "", "orthoplex: interrupted\n")),  # raised again
        (TERM, "raise ImportError('half imported')", (130, "", "orthoplex: interrupted\n")),
        (TERM, "raise SystemExit(130)", (130, "", "")),  # the command has said a word
        (TERM, "time.sleep(0)", (0, "went on\n", "")),  # it was done
        (TERM, TERM, (130, "", "orthoplex: interrupted\n")),  # the second one is not raised
        ("pass", "raise SystemExit(3)", (3, "", "")),
    ],
)
def test_a_signal_that_a_library_swallows(
    tmp_path: Path, signals: str, then: str, expected: tuple[int, str, str]
) -> None:
    script = SWALLOWS.format(signals=signals, then=then).replace("time.sleep(5)", "time.sleep(0)")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == expected and not [*tmp_path.iterdir()]


def test_signals_that_are_ignored_stay_so_and_handlers_come_back() -> None:
    before, ending = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with leaving.leaving():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is leaving.leave
        assert signal.getsignal(signal.SIGTERM) is ending
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_dealt_with_is_forgotten() -> None:
    """As in a chat, in which Ctrl-C ends an answer."""
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            leaving.leave(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            leaving.check()
        leaving.forget()
        leaving.check()
