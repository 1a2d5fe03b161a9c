"""The cache of large data: bounded, the least recently used entry goes first, and processes may share it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import ConfigError, DataError
from trainers.data.generative.cache import GRACE_S, LEFT_S, LIMIT, cached, entries, limit_bytes, trim, used

KIB = 1024


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path))
    return tmp_path / "data"


def entry(name: str, age_s: float = 0.0, size: int = 10 * KIB) -> Path:
    folder = cached(name, lambda staging: (staging / "a").write_bytes(b"x" * size) and None)
    when = time.time() - age_s
    os.utime(folder, (when, when))
    return folder


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_an_entry_is_made_once(root: Path) -> None:
    made = list[Path]()

    def fill(staging: Path) -> None:
        made.append(staging)
        (staging / "a").write_text("b")

    assert cached("k", fill) == cached("k", fill) == root / "k" and len(made) == 1
    assert (root / "k" / "a").read_text() == "b" and names(root) == {"k"}
    with pytest.raises(ZeroDivisionError):
        cached("j", lambda _staging: print(1 / 0))
    assert names(root) == {"k"}


def test_the_least_recently_used_goes_first(root: Path) -> None:
    for age, name in enumerate("abcd"):
        entry(name, (age + 2) * GRACE_S)
    assert trim(root, 40 * KIB) == []
    assert used(root / "d") and not used(root / "e")  # is the newest now
    assert trim(root, 25 * KIB) == ["b", "c"] and names(root) == {"a", "d"}
    assert sorted(size for _, size, _ in entries(root)) == [10 * KIB] * 2


def test_a_large_entry_does_not_take_smaller_ones_with_it(root: Path) -> None:
    entry("new")
    entry("large", 2 * GRACE_S, 100 * KIB)
    entry("old", 3 * GRACE_S)
    assert trim(root, 30 * KIB) == ["large"] and names(root) == {"new", "old"}


def test_what_is_in_use_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0")
    entry("young", GRACE_S / 2)
    entry("old", GRACE_S * 2)
    mapped = np.memmap(root / "old" / "a", mode="r")
    entry("new")  # adds, and so trims
    assert names(root) == {"young", "new"}
    assert bytes(mapped[:3]) == b"xxx", "removed, and yet readable to who has it"


def test_what_killed_processes_left_goes_after_a_day(root: Path) -> None:
    entry("a")
    for name, age_s in ((".b.1", LEFT_S / 2), (".c.2", LEFT_S * 2)):
        (root / name).mkdir()
        os.utime(root / name, (time.time() - age_s,) * 2)
    (root / "file").touch()
    assert trim(root, 1e9) == [] and names(root) == {"a", ".b.1", "file"}


def test_processes_side_by_side(root: Path) -> None:
    """Each adds its entries under a bound that they all exceed, and reads each of them after it is told where it is."""
    code = (
        "import sys\n"
        "from trainers.data.generative import cache\n"
        "cache.GRACE_S = 0.5\n"
        "for i in range(40):\n"
        "    fill = lambda staging: (staging / 'a').write_bytes(b'x' * 9000)\n"
        "    folder = cache.cached(f'e{(i * int(sys.argv[1])) % 13}', fill)\n"
        "    assert (folder / 'a').stat().st_size == 9000\n"
    )
    environment = {**os.environ, LIMIT: str(20_000 / 2**30)}
    started = [subprocess.Popen([sys.executable, "-c", code, str(n)], env=environment) for n in (3, 5)]
    assert [process.wait(60) for process in started] == [0, 0]


@pytest.mark.parametrize("given", ["many", "-1", "nan", ""])
def test_a_wrong_bound(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, given)
    with pytest.raises(ConfigError, match=f"{LIMIT}: '{given}' is no size; give a number of GiB from 0"):
        cached("a", lambda staging: staging.touch())
    monkeypatch.setenv(LIMIT, "0.5")
    assert limit_bytes() == 2**29


def test_a_disk_that_does_not_take_it(root: Path) -> None:
    root.parent.mkdir(exist_ok=True)
    root.write_text("no folder")
    with pytest.raises(
        DataError,
        match=r"data cache '.*/data': Not a directory; make that a folder, or name another folder in ORTHOPLEX",
    ):
        entry("a")
