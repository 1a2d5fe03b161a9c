"""Many publish at once, some are killed: versions are consecutive, whole, and none that was acknowledged is lost."""

import os
import random
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import LocalStore, S3Store
from orchestrator.catalog import rows_of
from orchestrator.garbage import Collector
from orchestrator.registry import Track
from orchestrator.verify import verify
from tests.orchestrator.registries import ended, folder_track, in_child, publish_one, read_everything


def race(store: Any, folder: Path, count: int) -> None:
    track = Track(store, "team", "stream")
    for number in range(count):
        publish_one(track, folder, (os.getpid(), number))


@pytest.mark.parametrize(("kind", "processes", "each"), [("folder", 8, 10), ("s3", 4, 3)])
def test_processes_publish_at_once(
    kind: str, processes: int, each: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = LocalStore(tmp_path / "store") if kind == "folder" else S3Store(request.getfixturevalue("s3_bucket"))
    children = [in_child(lambda: race(store, tmp_path, each)) for _ in range(processes)]
    seen = [0]
    while seen[-1] < processes * each // 2:  # a reader throughout the first half: what it sees is whole
        seen.append(len(read_everything(store)))
    assert [ended(child) for child in children] == [0] * processes
    assert seen == sorted(seen)
    track = Track(store, "team", "stream")
    entries = track.entries()
    commits = [entry.body for entry in entries if entry.op == "commit"]
    assert [commit["version"] for commit in commits] == list(range(1, processes * each + 1))
    assert len({commit["prefix"] for commit in commits}) == processes * each
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    report = verify(track)
    assert (report.faults, report.versions, report.files) == ([], processes * each, 2 * processes * each)


STEPS = ("_sync", "_make_folder", "link", "replace")


def die_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process kills itself when it is about to touch the disk for the step-th time."""
    left = [step]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(os, "link", counted(os.link))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))


def test_a_publisher_killed_at_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    publish_one(folder_track(root), tmp_path)
    killed = 0
    for step in range(1, 100):
        done = tmp_path / f"done-{step}"

        def work(step: int = step, done: Path = done) -> None:
            die_at(step, monkeypatch)
            publish_one(folder_track(root), tmp_path, step)
            done.touch()

        before = len(read_everything(LocalStore(root)))
        assert ended(in_child(work)) == 0
        after = len(read_everything(LocalStore(root)))
        assert after in (before, before + 1)
        if done.exists():
            assert after == before + 1
            break
        killed += 1
        assert verify(folder_track(root)).faults == []
    assert killed >= 10  # two files, a manifest, an entry: each written, synced and named
    assert publish_one(folder_track(root), tmp_path).body["version"] == after + 1
    check_gc_removes_the_orphans(root)


def test_publishers_killed_at_random_instants(tmp_path: Path) -> None:
    root, draw = tmp_path / "store", random.Random(5)
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    track = folder_track(root)

    def work() -> None:
        with acknowledged.open("a", buffering=1) as told:
            while True:
                told.write(f"{publish_one(folder_track(root), tmp_path).body['prefix']}\n")

    for _ in range(50):
        child = in_child(work)
        time.sleep(draw.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        assert ended(child) == 0
    committed = [row["location"] for row in rows_of(track.label, track.entries())]
    told = acknowledged.read_text().split()
    assert told and set(told) <= set(committed) and len(committed) <= len(told) + 50
    assert verify(track).faults == []
    assert publish_one(track, tmp_path).body["version"] == len(committed) + 1
    check_gc_removes_the_orphans(root)


def check_gc_removes_the_orphans(root: Path) -> None:
    track = folder_track(root)
    before = read_everything(track.store)
    kept = {row["location"] for row in rows_of(track.label, track.entries())}
    removed = Collector(track, timedelta(0)).collect().remove
    assert removed and not kept & set(removed)
    left = {path.name for path in (root / track.version_root).iterdir() if any(path.rglob("*.*"))}
    assert left == {location.rpartition("/")[2] for location in kept}
    assert read_everything(track.store) == before and verify(track).faults == []
