"""A run whose store is full, read-only or taken away in the middle of a task: what it says, what stands, the way on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import StoreError
from orchestrator.registry.verify import verify
from orchestrator.run.controller import Controller
from orchestrator.track.track import Track
from tests.support.disks import Disk
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray
from trainers.messages import Order

FULL = "No space left on device; free some space and run again; nothing that was stored is lost"
READ_ONLY = "Read-only file system; mount it for writing and run again"
GONE = "the folder is gone, and was there before: it was removed, renamed or unmounted; put it back and run again"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    monkeypatch.setenv("ORTHOPLEX_STORE_PATIENCE_S", "0")


def second(act: Callable[[], object]) -> Callable[[Order], None]:
    """Does this in the middle of the second task."""
    return lambda order: act() and None if order.index == 1 else None


def move(source: Path, target: Path) -> Path:
    return source.rename(target)


@pytest.mark.parametrize(
    ("breaks", "mends", "said"),
    [
        (lambda disk: disk.fill(), lambda disk: (disk.path / ".filler").unlink(), FULL),
        (lambda disk: disk.remount("ro"), lambda disk: disk.remount("rw"), READ_ONLY),
        (
            lambda disk: move(disk.path / "store", disk.path / "away"),
            lambda disk: move(disk.path / "away", disk.path / "store"), GONE,
        ),
    ],
    ids=["full", "read-only", "gone"],
)  # fmt: skip
def test_a_run_that_loses_its_store(
    disk: Disk, breaks: Callable[[Disk], object], mends: Callable[[Disk], object], said: str
) -> None:
    """It ends with one message that names the store. The committed task stands, whole; the same command goes on."""
    config = run_config(disk.path / "store", ("a", "b", "c"))
    broken = Controller(config, Told(), workers=FakeWorkers(config, during=second(lambda: breaks(disk))))
    with pytest.raises(StoreError, match=f"^store {disk.path}/store: .*{said}"):
        broken.run()
    assert (disk.path / "store").exists() is (said != GONE)
    mends(disk)
    left = Track(broken.store, config.team, config.name)
    assert verify(left).faults == [] and verify(left).versions == 1
    again = FakeWorkers(config)
    state = Controller(config, Told(), workers=again).run()
    assert state.status == "finished" and [order.index for order in again.orders] == [1, 2]
    assert verify(left).faults == [] and verify(left).versions == 3
