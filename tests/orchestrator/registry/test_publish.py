"""Many publish at once, some are killed: versions are consecutive, whole, and none that was acknowledged is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConflictError
from cluster.storage import S3Store, Store, open_store
from orchestrator.registry.catalog import rows_of
from orchestrator.registry.gc import Collector
from orchestrator.registry.verify import verify
from orchestrator.track.track import Track
from tests.conftest import Ceph
from tests.support.registries import (
    all_ended,
    ended,
    forkable,
    in_child,
    publish_one,
    publish_patiently,
    read_everything,
    stream_of,
)
from tests.support.sample import some

PROCESSES, EACH = 8, some(10, 3)


@pytest.mark.slow
def test_processes_publish_at_once(uri: str, tmp_path: Path) -> None:
    """Contiguous, chained, none lost; what a reader sees throughout is whole."""
    told, store = tmp_path / "told", forkable(uri)
    told.touch()

    def work() -> None:
        track = stream_of(store)
        for number in range(EACH):
            tell(told, publish_one(track, tmp_path, (os.getpid(), number)))

    children, seen = [in_child(work) for _ in range(PROCESSES)], [0]
    while not all_ended(children):
        seen.append(len(read_everything(open_store(uri))))
    assert [ended(child) for child in children] == [0] * PROCESSES
    assert seen == sorted(seen)
    track, total = stream_of(uri), PROCESSES * EACH
    entries = track.entries()
    commits = [entry.body for entry in entries if entry.op == "commit"]
    assert [commit["version"] for commit in commits] == list(range(1, total + 1))
    assert sorted(commit["prefix"] for commit in commits) == sorted(told.read_text().split())
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    report = verify(track)
    assert (report.faults, report.versions, report.files) == ([], total, 2 * total)


def tell(told: Path, entry: Any) -> None:
    """Notes what was acknowledged, in one write."""
    with told.open("a") as stream:
        stream.write(f"{entry.body['prefix']}\n")


def die_at(step: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process kills itself when it is about to touch the disk for the step-th time, or to send a
    request or take its answer."""
    left = [step]

    def count(*_: Any, **__: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Any) -> Any:
        return lambda *arguments, **options: (count(), function(*arguments, **options))[1]

    if isinstance(store, S3Store):
        for event in ("before-send.s3", "after-call.s3"):
            store.client.meta.events.register(event, count)
        return
    for owner, name in ((os, "fsync"), (os, "link"), (Path, "replace")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.fixture(
    params=["folder", pytest.param("ceph", marks=pytest.mark.s3), pytest.param("https", marks=pytest.mark.s3)]
)
def killing_ground(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty store, in a folder or on a real server."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue({'ceph': 'ceph_bucket', 'https': 'ceph_tls_bucket'}[request.param])}/a"


def test_a_publisher_killed_at_each_step(killing_ground: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = killing_ground
    store, track = forkable(uri), stream_of(uri)
    publish_one(track, tmp_path)
    killed = 0
    for step in range(1, 100):
        done = tmp_path / f"done-{step}"

        def work(step: int = step, done: Path = done) -> None:
            die_at(step, store, monkeypatch)
            publish_one(stream_of(store), tmp_path, step)
            done.touch()

        before = len(read_everything(track.store))
        assert ended(in_child(work)) == 0
        after = len(read_everything(track.store))
        assert after in (before, before + 1)
        if done.exists():
            assert after == before + 1
            break
        killed += 1
        assert verify(track).faults == []
    assert killed >= 10  # two files, a manifest, an entry: each written, synced and named, or sent and answered
    assert publish_one(track, tmp_path).body["version"] == after + 1
    check_gc_removes_the_orphans(uri, tmp_path)


@pytest.mark.slow
def test_publishers_killed_at_random_instants(killing_ground: str, tmp_path: Path) -> None:
    uri, draw, told = killing_ground, random.Random(5), tmp_path / "told"
    store, longest_s = forkable(uri), 0.4 if uri.startswith("s3:") else 0.06
    told.touch()

    def work() -> None:
        track = stream_of(store)
        while True:
            tell(told, publish_one(track, tmp_path))

    for _ in range(50):
        child = in_child(work)
        time.sleep(draw.uniform(longest_s / 12, longest_s))
        os.kill(child, signal.SIGKILL)
        assert ended(child) == 0
    check_all_is_well(uri, told, tmp_path, lost_answers=50)


@pytest.mark.s3
def test_a_killed_server_keeps_what_it_acknowledged(ceph: Ceph, ceph_bucket: str, tmp_path: Path) -> None:
    """SIGKILL to all of it while four processes publish; they wait, go on, and nothing is lost or double."""
    uri, told, each = f"s3://{ceph_bucket}", tmp_path / "told", 15
    told.touch()
    store = forkable(uri)

    def work() -> None:
        track = stream_of(store)
        for number in range(each):
            tell(told, publish_one(track, tmp_path, (os.getpid(), number)))

    children = [in_child(work) for _ in range(4)]
    while len(told.read_text().split()) < 4:
        time.sleep(0.01)
    ceph.script("kill", ceph.folder)
    known = told.read_text().split()
    assert len(known) < 4 * each
    ceph.script("restart", ceph.root, ceph.folder)
    assert [ended(child) for child in children] == [0] * 4
    assert len(told.read_text().split()) == 4 * each and set(known) <= set(told.read_text().split())
    prefix = stream_of(uri).fresh_prefix()  # what a publisher leaves that never came back
    open_store(uri).put(f"{prefix}/adapter.safetensors", b"left over")
    check_all_is_well(uri, told, tmp_path, lost_answers=0)


ON_A_SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from cluster.errors import StoreError
from orchestrator.log.event import parse
from orchestrator.registry.pull import pull
from orchestrator.registry.verify import verify
from orchestrator.track.events import Commit
from tests.support.registries import publish_one, read_everything, stream_of

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], check=True)
track, folder = stream_of(str(disk / "store")), Path(sys.argv[2])
first = publish_one(track, folder)
published = 1
for attempt in range(200):
    try:
        publish_one(track, folder, attempt)
        published += 1
    except StoreError as error:
        assert "No space left" in str(error) and "free some space" in str(error) and str(error).count("\\n") == 0, error
        break
else:
    raise AssertionError("the disk was never full")
os.environ["ORTHOPLEX_STATE"] = str(disk / "state")
try:
    pull(track, {"": parse(first, Commit)}, disk / "pulled")
    raise AssertionError("there was room")
except StoreError as error:
    assert "No space left" in str(error), error
assert not (disk / "pulled").exists()
os.environ["ORTHOPLEX_STATE"] = str(folder / "state")
assert len(read_everything(track.store)) == published and verify(track).faults == []
subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
assert publish_one(track, folder).body["version"] == published + 1 and verify(track).faults == []
print(published)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one: what was published is whole, the message says what to do, and with some room it goes on."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here, in which a small disk can be mounted")
    (tmp_path / "disk").mkdir()
    (tmp_path / "files").mkdir()
    words = ["unshare", "-rm", sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path / "disk"), str(tmp_path / "files")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2


def check_all_is_well(uri: str, told: Path, folder: Path, *, lost_answers: int) -> None:
    """What was acknowledged is there, all is whole, the next publish works, and gc removes just the orphans."""
    track = stream_of(uri)
    committed = [row["location"] for row in rows_of(track.label, track.entries())]
    known = told.read_text().split()
    assert known and set(known) <= set(committed) and len(committed) <= len(known) + lost_answers
    assert len(set(committed)) == len(committed) and verify(track).faults == []
    assert publish_one(track, folder).body["version"] == len(committed) + 1
    check_gc_removes_the_orphans(uri, folder)


def check_gc_removes_the_orphans(uri: str, folder: Path) -> None:
    """With no grace, while two others publish: what is committed stays, what is not goes."""
    store, track = forkable(uri), stream_of(uri)
    orphans = places(track) - {row["location"] for row in rows_of(track.label, track.entries())}
    assert orphans
    before, removed = read_everything(track.store), set[str]()

    def work() -> None:
        for number in range(5):
            publish_patiently(stream_of(store), folder, number)

    children = [in_child(work) for _ in range(2)]
    while not all_ended(children) or orphans - removed:
        try:
            removed |= {*Collector(track, timedelta(0)).collect().remove}
        except ConflictError:  # others commit all the time
            continue
    assert [ended(child) for child in children] == [0, 0]
    removed |= {*Collector(track, timedelta(0)).collect().remove}
    committed = {row["location"] for row in rows_of(track.label, track.entries())}
    assert places(track) == committed and not committed & removed
    after = read_everything(track.store)
    assert after[: len(before)] == before and len(after) == len(before) + 10
    assert verify(track).faults == []


def places(track: Track) -> set[str]:
    """The prefixes that hold files."""
    return {f"{track.version_root}/{name}" for name in track.store.list_folders(track.version_root)}
