"""What gc decides from plain values, and that what it does harms nobody who publishes or reads meanwhile."""

import os
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, ConflictError
from cluster.storage import upload_files
from cluster.storage.disk import DiskFullError
from orchestrator.log.entry import Entry
from orchestrator.log.event import parse
from orchestrator.registry.aliases import promote
from orchestrator.registry.catalog import rows_of
from orchestrator.registry.gc import Collector, Decision, decide, sweep_temporary
from orchestrator.registry.verify import verify
from orchestrator.run.changes import objections
from orchestrator.track.aside import Abort
from orchestrator.track.events import Commit
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from tests.support.disks import Disk
from tests.support.entries import COMMIT
from tests.support.registries import (
    BODY,
    ended,
    folder_track,
    in_child,
    make_files,
    publish_one,
    read_everything,
    track_with,
)

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def commit(**more: Any) -> Commit:
    return Commit.model_validate({**BODY, **more})


def entry(seq: int, op: str, days_ago: float, **body: Any) -> Entry:
    return Entry(seq, "", "", "me", (NOW - DAY * days_ago).isoformat(), op, body, "")


FIRST = entry(1, "commit", 9, **{**COMMIT, "prefix": "kept"})


@pytest.mark.parametrize(
    ("entries", "found", "expected"),
    [
        ([FIRST], ["kept"], Decision()),
        ([FIRST], ["kept", "new"], Decision(orphans=("new",), waiting=("new",))),
        ([FIRST, entry(2, "orphans", 0.9, prefixes=["x"])], ["kept", "x"], Decision(waiting=("x",))),
        ([FIRST, entry(2, "orphans", 1.0, prefixes=["x"])], ["kept", "x"], Decision(abort=("x",), remove=("x",))),
        (
            [entry(1, "orphans", 3, prefixes=["x"]), entry(2, "orphans", 0, prefixes=["x"])], ["x"],
            Decision(abort=("x",), remove=("x",)),
        ),
        ([entry(1, "orphans", 3, prefixes=["x"]), entry(2, "commit", 2, **COMMIT)], ["x"], Decision()),
        ([entry(1, "abort", 0, prefixes=["x"])], ["x"], Decision(remove=("x",))),
        ([entry(1, "abort", 0, prefixes=["x"])], [], Decision()),
        ([FIRST, entry(2, "abort", 0, prefixes=["kept"])], ["kept"], Decision()),  # as no rule-abiding gc would
        ([FIRST, entry(2, "delete", 0.9, versions=[1], prefixes=["kept"])], ["kept"], Decision()),
        ([FIRST, entry(2, "delete", 1.1, versions=[1], prefixes=["kept"])], ["kept"], Decision(remove=("kept",))),
    ],
)  # fmt: skip
def test_decisions(entries: list[Entry], found: list[str], expected: Decision) -> None:
    assert decide(entries, found, [], NOW, DAY) == expected


def test_old_indices_go() -> None:
    assert decide([FIRST], [], [40, 30, 20, 10], NOW, DAY) == Decision(indices=(20, 10))


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return track_with(3, tmp_path)


def leave_orphan(track: Track, folder: Path) -> str:
    prefix = track.fresh_prefix()
    upload_files(track.store, prefix, make_files(folder, "orphan"))
    return prefix


def test_an_orphan_waits_and_goes(track: Track, tmp_path: Path) -> None:
    orphan = leave_orphan(track, tmp_path)
    before = read_everything(track.store)
    assert Collector(track, DAY).look().orphans == (orphan,) and track.head().seq == 3  # type: ignore[union-attr]
    assert Collector(track, DAY).collect().remove == ()
    assert Collector(track, DAY).look() == Decision(waiting=(orphan,))
    assert Collector(track, timedelta(0)).collect().remove == (orphan,)
    assert [e.op for e in track.entries()[3:]] == ["orphans", "abort"]
    assert track.store.list(f"{orphan}/") == []
    assert Collector(track, timedelta(0)).collect() == Decision()
    assert read_everything(track.store) == before and verify(track).faults == []


def test_a_publisher_whose_files_were_taken_is_refused(track: Track, tmp_path: Path) -> None:
    """Whether gc came after its last look at the log or before."""
    head, orphan = track.entries()[-1], leave_orphan(track, tmp_path)
    Collector(folder_track(tmp_path / "store"), timedelta(0)).collect()
    for after in (head, track.head()):
        for each in (track, folder_track(tmp_path / "store")):
            with pytest.raises(ConflictError, match=f"took {orphan} for left over"):
                each.append(commit(prefix=orphan), after=after)
    assert len(read_everything(track.store)) == 3


def test_gc_that_loses_to_a_commit_leaves_its_files(track: Track, tmp_path: Path, monkeypatch: Any) -> None:
    """The commit comes between gc's look and its entry."""
    orphan = leave_orphan(track, tmp_path)
    other, put = folder_track(tmp_path / "store"), track.store.put_if_absent
    sha256 = other.write_manifest(orphan, {"base_model": {}}, [])

    def late(key: str, data: bytes) -> bool:
        monkeypatch.undo()
        other.append(commit(version=4, prefix=orphan, manifest_sha256=sha256), after=other.head())
        return put(key, data)

    monkeypatch.setattr(track.store, "put_if_absent", late)
    assert Collector(track, timedelta(0)).collect() == Decision()
    assert len(track.store.list(f"{orphan}/")) == 3 and len(read_everything(track.store)) == 4


def test_gc_without_grace_while_others_publish(tmp_path: Path) -> None:
    """Publishers may be refused; what is acknowledged is there, and no commit is without its files."""
    root, told, enough = tmp_path / "store", tmp_path / "told", tmp_path / "enough"
    told.touch()

    def work() -> None:
        while not enough.exists():
            try:
                prefix = publish_one(folder_track(root), tmp_path, os.getpid()).body["prefix"]
            except ConflictError:
                continue
            with told.open("a") as stream:
                stream.write(f"{prefix}\n")

    children = [in_child(work) for _ in range(3)]
    began, collected = time.monotonic(), 0
    while (passed := time.monotonic() - began) < 1.5 or (passed < 60 and not (collected and told.read_text())):
        with suppress(ConflictError):
            collected += len(Collector(folder_track(root), timedelta(0)).collect().remove)
    enough.touch()
    assert [ended(child) for child in children] == [0] * 3
    track = folder_track(root)
    found = {row["location"] for row in rows_of(track.label, track.entries())}
    assert collected and found and set(told.read_text().split()) == found
    assert verify(track).faults == []


def test_versions_are_deleted_from_the_end(track: Track, tmp_path: Path) -> None:
    promote(track, 2, "production")
    collector = Collector(track, DAY)
    for version, message in ((1, "production names v2; move that alias first"), (2, "production"), (4, "no such")):
        with pytest.raises(ConfigError, match=message):
            collector.delete(version, "old")
    publish_one(track, tmp_path)
    assert collector.doomed(3) == [3, 4]
    assert collector.delete(3, "wrong data").body["versions"] == [3, 4]
    assert [row["version"] for row in rows_of(track.label, track.entries())] == [1, 2]
    with pytest.raises(ConfigError, match="was deleted"):
        promote(track, 3, "candidate")
    assert collector.collect().remove == () and verify(track).versions == 2
    assert len(Collector(track, timedelta(0)).collect().remove) == 2
    assert verify(track).faults == [] and publish_one(track, tmp_path).body["version"] == 5


def test_a_run_whose_versions_were_deleted_does_not_go_on(fake_run: Any) -> None:
    run = fake_run("a", "b")
    run.commit([0.9, 0.1])
    Collector(run.track, DAY).delete(1, "")
    state = replay("default", "stream", run.track.entries())
    found = objections(state, run.config.model_dump(mode="json"), [])
    assert [each.line for each in found] == ["v1: was deleted by `adapters gc`, and nothing can stand on it"]
    assert objections(replace(state, deleted=frozenset()), run.config.model_dump(mode="json"), []) == []


def test_temporary_files_of_killed_writers(track: Track) -> None:
    folder = Path(track.store.uri) / ".tmp"
    for name, age_s in (("old", 3700), ("new", 3500)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age_s,) * 2)
    assert sweep_temporary(track.store, remove=False) == 1 and (folder / "old").exists()
    assert sweep_temporary(track.store, remove=True) == 1
    assert [path.name for path in folder.iterdir()] == ["new"]


class Clock(datetime):
    """A machine's clock that is wrong by OFF."""

    OFF = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.OFF


def test_clocks_that_are_wrong(track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and aliases are the log's, not the clocks'; who collects early refuses a publisher, and harms nothing."""
    for days in (3, -3):
        monkeypatch.setattr(Clock, "OFF", timedelta(days=days))
        monkeypatch.setattr("orchestrator.log.chain.datetime", Clock)
        version = publish_one(track, tmp_path).body["version"]
        promote(track, version, "production")
    assert [row["version"] for row in rows_of(track.label, track.entries())] == [1, 2, 3, 4, 5]
    assert rows_of(track.label, track.entries())[-1]["aliases"] == ["production"]
    ahead, behind = leave_orphan(track, tmp_path), leave_orphan(track, tmp_path)
    monkeypatch.setattr(Clock, "OFF", timedelta(days=3))
    assert Collector(track, DAY).collect().orphans == tuple(
        sorted((ahead, behind))
    )  # noted as of the day after tomorrow
    monkeypatch.setattr(Clock, "OFF", timedelta(0))
    assert Collector(track, DAY).collect().remove == ()  # they wait for longer
    monkeypatch.setattr(Clock, "OFF", timedelta(days=5))
    monkeypatch.setattr("orchestrator.registry.gc.datetime", Clock)
    assert Collector(track, DAY).collect().remove == tuple(sorted((ahead, behind)))
    with pytest.raises(ConflictError, match=r"took .* for left over"):
        track.append(commit(version=6, prefix=ahead), after=track.head())
    assert publish_one(track, tmp_path).body["version"] == 6 and verify(track).faults == []


# --- full disks


def full_of_orphans(disk: Disk, tmp_path: Path, count: int) -> tuple[Track, list[str]]:
    """A track of two versions on a disk that is full, and the prefixes that no commit names."""
    track = folder_track(disk.path / "store")
    for number in range(2):
        publish_one(track, tmp_path, number)
    return track, [leave_orphan(track, tmp_path) for _ in range(count)]


def whole(track: Track) -> bool:
    return len(read_everything(track.store)) == 2 and verify(track).faults == []


def test_gc_frees_what_the_log_lets_go_before_it_writes(disk: Disk, tmp_path: Path) -> None:
    """There is no reserve. What an earlier gc named, and was killed before it removed, makes the room."""
    track, (first, second) = full_of_orphans(disk, tmp_path, 2)
    track.append(Abort(prefixes=(first,)), after=track.head())
    disk.fill()
    with pytest.raises(DiskFullError):
        track.append(Abort(prefixes=(second,)), after=track.head())
    assert Collector(track, timedelta(0)).collect().remove == tuple(sorted((first, second)))
    assert [entry.op for entry in track.entries()[2:]] == ["abort", "abort"]
    assert track.store.list(f"{first}/") == track.store.list(f"{second}/") == [] and whole(track)


@pytest.mark.parametrize("room", ["reserve", "index"])
def test_gc_gives_up_what_nobody_needs(disk: Disk, tmp_path: Path, room: str) -> None:
    """Nothing can go before the log says so, and there is no room to say it. Afterwards there is a reserve again."""
    track, (orphan,) = full_of_orphans(disk, tmp_path, 1)
    track.store.keep_reserve() if room == "reserve" else track.write_index()  # type: ignore[attr-defined]
    filler = disk.fill()
    assert Collector(track, timedelta(0)).collect().remove == (orphan,)
    assert track.store.list(f"{orphan}/") == [] and whole(track) and (room == "reserve" or track.indices() == [])
    filler.unlink()
    assert Collector(track, timedelta(0)).collect() == Decision()
    assert track.store.give_up_reserve()  # type: ignore[attr-defined]


def test_deleting_a_version_on_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    track, _ = full_of_orphans(disk, tmp_path, 0)
    prefix = parse(track.entries()[1], Commit).prefix
    track.store.keep_reserve()  # type: ignore[attr-defined]
    disk.fill()
    collector = Collector(track, timedelta(0))
    collector.delete(2, "old")
    assert collector.collect().remove == (prefix,) and verify(track).faults == [] and verify(track).versions == 1


def test_gc_without_any_room_says_where(disk: Disk, tmp_path: Path) -> None:
    """And frees nothing that the log does not let go."""
    track, (orphan,) = full_of_orphans(disk, tmp_path, 1)
    disk.fill()
    with pytest.raises(DiskFullError, match=f"store {disk.path}/store: cannot write .*free some space.*a few KiB more"):
        Collector(track, timedelta(0)).collect()
    assert len(track.store.list(f"{orphan}/")) == 2 and whole(track)


def test_many_prefixes_go_in_several_entries(track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry is small enough for the reserve."""
    monkeypatch.setattr("orchestrator.registry.gc.AT_ONCE", 2)
    orphans = sorted(leave_orphan(track, tmp_path) for _ in range(5))
    assert [*Collector(track, timedelta(0)).collect().remove] == orphans
    assert [len(parse(entry, Abort).prefixes) for entry in track.entries()[3:]] == [2, 2, 1]


def test_the_reserve_is_no_leftover(tmp_path: Path) -> None:
    store = folder_track(tmp_path).store
    store.put("x", b"")
    store.keep_reserve()  # type: ignore[attr-defined]
    for path in (tmp_path / ".tmp").iterdir():
        os.utime(path, (0, 0))
    assert sweep_temporary(store, remove=True) == 0 and store.give_up_reserve()  # type: ignore[attr-defined]
