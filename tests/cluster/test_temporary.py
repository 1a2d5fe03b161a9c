"""Temporary folders: whose they are, that nobody else reads them, and what becomes of those of dead processes."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import temporary as module
from cluster.folders import appearing
from cluster.processes import Process, alive, identify, start_time, users_of
from cluster.temporary import base36, owned, owner, remove_left, remove_own, table, temporary

MAKES = """
import sys, time
from cluster.temporary import temporary
folder = temporary("made", below=sys.argv[1])
open(folder.name + "/file", "w").close()
print(folder.name, flush=True)
time.sleep(60)
"""
MADE = owned() + "made-"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is /tmp to this process, which has made none yet."""
    monkeypatch.setattr(module, "SHORT", str(tmp_path))
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "_places", {tmp_path})
    remove_left.cache_clear()
    yield tmp_path
    remove_left.cache_clear()


@pytest.fixture
def maker(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process, and the folder that it has made."""
    process = subprocess.Popen([sys.executable, "-c", MAKES, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()


def test_a_folder_is_private_and_says_whose_it_is(place: Path) -> None:
    before = os.umask(0)
    try:
        with temporary() as first, temporary() as second:
            for folder in map(Path, (first, second)):
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.parent == place
                assert owner(folder.name) == identify(os.getpid())
            assert first[-8:] != second[-8:]
    finally:
        os.umask(before)
    with temporary("made", below=place / "..") as elsewhere:
        assert Path(elsewhere).name.startswith(MADE) and Path(elsewhere).resolve().parent == place.parent
    assert not [*place.iterdir()]


def test_what_a_killed_process_leaves_is_removed_by_the_next_start(
    place: Path, maker: tuple[subprocess.Popen[str], Path]
) -> None:
    process, folder = maker
    remove_left()
    assert folder.is_dir()  # it lives
    process.kill()
    process.wait()
    remove_left()
    assert folder.is_dir()  # a process looks once
    remove_left.cache_clear()
    with temporary():
        assert not folder.exists()


def test_the_proof_of_death_is_the_start_time(place: Path) -> None:
    """An id that is in use again proves nothing; nor does an id that another table, as a container's, may have."""
    here, start = base36(os.getpid()), start_time(os.getpid())
    nobody = base36(4_194_304)  # above all ids
    dead = [f"orthoplex-{here}.{base36(start - 1)}{table()}-made-abc", f"orthoplex-{nobody}.1{table()}-abc"]
    left = [
        f"orthoplex-{here}.{base36(start)}{table()}-made-abc", f"orthoplex-{nobody}.1zzzz-abc", "orthoplex-ray-7il",
        "orthoplex-state-geh1o8v4", f"orthoplex-{nobody}-abc", f"orthoplex-?.1{table()}-abc", "other",
    ]  # fmt: skip
    for name in [*dead, *left]:
        (place / name).mkdir()
    (place / f"orthoplex-{nobody}.2{table()}-abc").symlink_to(place / "other")
    (place / f"orthoplex-{nobody}.3{table()}-abc").touch()
    remove_left()
    assert not [name for name in dead if (place / name).exists()]
    assert all((place / name).is_dir() for name in left)


def test_a_machine_without_process_tables_removes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"orthoplex-{base36(4_194_304)}.1-abc"
    (place / name).mkdir()
    monkeypatch.setattr(module, "table", lambda: "")
    remove_left()
    assert owner(name) is None and (place / name).is_dir()


def test_what_still_runs_in_the_folder_of_a_dead_process_is_ended(
    place: Path, maker: tuple[subprocess.Popen[str], Path]
) -> None:
    process, folder = maker
    sleep = ["sleep", "60"]
    inside = subprocess.Popen(sleep, env={"TOKEN": f"{folder}/token"}, start_new_session=True)
    beside = subprocess.Popen(sleep, env={"TOKEN": f"{folder}0", "NAME": f"see {folder}"}, start_new_session=True)
    try:
        until_started(inside.pid, beside.pid)
        assert users_of(folder) == [identify(inside.pid)]
        process.kill()
        process.wait()
        ours, others = identify(inside.pid), identify(beside.pid)
        remove_left()
        assert not alive(ours) and alive(others) and not folder.exists()
        assert inside.wait() == -signal.SIGKILL
    finally:
        for each in (inside, beside):
            each.kill()
            each.wait()


def until_started(*pids: int) -> None:
    """Waits until these processes run a program of their own."""
    while any(Path(f"/proc/{pid}/comm").read_text() != "sleep\n" for pid in pids):
        pass


def test_a_process_removes_its_own_at_once(place: Path, maker: tuple[subprocess.Popen[str], Path]) -> None:
    made = [temporary("a"), temporary("b", below=place)]
    with appearing(place / "export") as staging:
        remove_own()
        assert not staging.exists()
        staging.mkdir()
    assert not [folder for folder in made if Path(folder.name).exists()]
    remove_own()
    assert (place / "export").is_dir()
    assert maker[1].is_dir()


def test_paths_of_sockets_in_it_are_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 107 bytes, on a machine that is up for two years and has given away all ids."""
    monkeypatch.setattr(module, "start_time", lambda _: 2 * 366 * 24 * 3600 * 100)
    folder = Path("/tmp") / (owned(4_194_304) + "abcdefgh")
    assert len(str(folder / "r/session_2026-11-28_20-45-06_504053_4194304/sockets/plasma_store")) <= 107


def test_base36() -> None:
    assert [base36(number) for number in (0, 35, 36, 4_194_304)] == ["0", "z", "10", "2hwcg"]
    assert owner(f"orthoplex-2hwcg.10{table()}-x") == Process(4_194_304, 36)
