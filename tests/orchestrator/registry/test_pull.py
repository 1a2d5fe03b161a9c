"""A pulled folder is whole and right or is not there; what was fetched once is not fetched again."""

import json
from pathlib import Path
from typing import IO, Any

import pytest

from cluster.errors import ConfigError, IntegrityError, StoreError
from cluster.folders import file_digest
from orchestrator.log.event import parse
from orchestrator.registry.publish import publish
from orchestrator.registry.pull import pull
from orchestrator.registry.verify import verify
from orchestrator.track.events import Commit, Learned
from orchestrator.track.track import Track
from tests.support.disks import Disk
from tests.support.registries import read_everything, track_with
from trainers.data.answers import ANSWERS


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return track_with(2, tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(track: Track, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are downloaded from now on."""
    keys, download = list[str](), track.store.download

    def noted(key: str, path: Path, most: int | None = None) -> Any:
        keys.append(key)
        return download(key, path, most)

    monkeypatch.setattr(track.store, "download", noted)
    return keys


def test_one_version_and_a_stream(track: Track, tmp_path: Path) -> None:
    first, second = (parse(entry, Commit) for entry in track.entries())
    stored = read_everything(track.store)
    assert pull(track, {"": second}, tmp_path / "new" / "one") == 160
    found = contents(tmp_path / "new" / "one")
    manifest = found.pop("manifest.json")
    assert found == stored[1] and manifest == track.store.get(f"{second.prefix}/manifest.json")
    (tmp_path / "all").mkdir()
    assert pull(track, {"v1": first, "v2": second}, tmp_path / "all") == 320
    assert {p: d for p, d in contents(tmp_path / "all").items() if "manifest" not in p} == {
        f"v{number}/{path}": data for number, files in enumerate(stored, 1) for path, data in files.items()
    }
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one"]


def test_nothing_is_fetched_twice(track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    commit = parse(track.entries()[0], Commit)
    keys = fetched(track, monkeypatch)
    pull(track, {"": commit}, tmp_path / "a")
    pull(track, {"": commit}, tmp_path / "b")
    pull(track, {"": commit}, tmp_path / "a")  # as it is already
    assert len(keys) == 2 and contents(tmp_path / "a") == contents(tmp_path / "b")
    (damaged,) = (state / "files").rglob(file_digest(tmp_path / "a/adapter.safetensors"))  # in the cache
    damaged.chmod(0o644)
    damaged.write_bytes(b"\0" * 100)
    pull(track, {"": commit}, tmp_path / "c")
    assert len(keys) == 3 and contents(tmp_path / "c") == contents(tmp_path / "b")
    assert contents(tmp_path / "c")["adapter.safetensors"] == read_everything(track.store)[0]["adapter.safetensors"]


def test_a_pull_that_was_cut_goes_on(track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = parse(track.entries()[0], Commit)
    download = track.store.download

    def cut(key: str, path: Path, most: int | None = None) -> Any:
        if key.endswith("parquet"):
            path.write_bytes(b"ha")
            raise StoreError("the connection broke off")
        return download(key, path, most)

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="broke off"):
        patch.setattr(track.store, "download", cut)
        pull(track, {"": commit}, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    keys = fetched(track, monkeypatch)
    pull(track, {"": commit}, tmp_path / "out")
    assert keys == [f"{commit.prefix}/sub/log.parquet"]


@pytest.mark.parametrize("fault", ["changed", "longer", "absent", "manifest"])
def test_what_is_not_right_is_not_pulled(track: Track, tmp_path: Path, fault: str, state: Path) -> None:
    commit = parse(track.entries()[0], Commit)
    path = tmp_path / "store" / commit.prefix / ("manifest.json" if fault == "manifest" else "adapter.safetensors")
    data = path.read_bytes()
    path.unlink()
    if fault != "absent":
        path.write_bytes(data + b"\0" if fault == "longer" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"was changed|is missing"):
        pull(track, {"": commit}, tmp_path / "out")
    assert not [each for each in tmp_path.iterdir() if "out" in each.name]
    assert not [each for each in (state / "files").rglob("*") if each.is_file() and "parquet" not in str(each)][1:]


def test_folders_that_are_in_use(track: Track, tmp_path: Path) -> None:
    commit = parse(track.entries()[0], Commit)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").touch()
    for taken in (tmp_path / "mine", tmp_path / "mine/notes"):
        with pytest.raises(ConfigError, match="holds something else; choose a folder that is new or empty"):
            pull(track, {"": commit}, taken)
    with pytest.raises(StoreError, match="cannot make"):
        pull(track, {"": commit}, tmp_path / "mine/notes/below")
    assert contents(tmp_path / "mine") == {"notes": b""}


@pytest.mark.parametrize("sharing", [False, True])
def test_what_is_pulled_is_the_users(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharing: bool, state: Path
) -> None:
    """Files have a new file's mode and may be changed: neither cache nor store changes with them, be they copied or,
    where a filesystem shares blocks, cloned."""
    clones = []

    def clone(new: IO[bytes], request: int, old: int) -> None:
        if not sharing:
            raise OSError(95, "Operation not supported")
        clones.append(request)
        new.write(Path(f"/proc/self/fd/{old}").read_bytes())

    monkeypatch.setattr("fcntl.ioctl", clone)
    kept, commit = read_everything(track.store)[0], parse(track.entries()[0], Commit)
    pull(track, {"": commit}, tmp_path / "out")
    found = contents(tmp_path / "out")
    assert json.loads(found.pop("manifest.json"))["files"] and found == kept
    (tmp_path / "new").touch()
    for path in (each for each in (tmp_path / "out").rglob("*") if each.is_file()):
        assert path.stat().st_mode == (tmp_path / "new").stat().st_mode
        path.write_bytes(b"mine")
    pull(track, {"": commit}, tmp_path / "again")
    assert {name: contents(tmp_path / "again")[name] for name in kept} == kept == read_everything(track.store)[0]
    assert clones == ([0x40049409] * 4 if sharing else [])  # two files, twice


def test_kept_answers_stay_in_the_store(track: Track, tmp_path: Path) -> None:
    """They hold rows of the data. The manifest lists them, and a folder pulled before is recognised."""
    made = tmp_path / "made"
    made.mkdir()
    for name in ("adapter.safetensors", ANSWERS):
        (made / name).write_bytes(name.encode())
    commit = parse(publish(track, made, Learned(task="c"), {}), Commit)
    size = len("adapter.safetensors")
    for _ in range(2):
        assert pull(track, {"": commit}, tmp_path / "out") == size
    assert contents(tmp_path / "out").keys() == {"adapter.safetensors", "manifest.json"}
    assert [record["path"] for record in track.manifest_of(commit)["files"]] == ["adapter.safetensors", ANSWERS]
    (track.store.root / commit.prefix / ANSWERS).write_bytes(b"x")  # type: ignore[attr-defined]
    assert [fault for fault in verify(track).faults if ANSWERS in fault]


@pytest.mark.parametrize("where", ["cache", "folder"])
def test_a_full_disk_is_named(
    track: Track, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The cache's, or the folder's; neither holds half a file then."""
    monkeypatch.setenv("ORTHOPLEX_STATE", str(disk.path if where == "cache" else tmp_path / "cache"))
    target = disk.path / "out" if where == "folder" else tmp_path / "out"
    first = parse(track.entries()[0], Commit)
    filler = disk.fill()
    said = {
        "cache": f"cannot write the cache of files, {disk.path}/files/.*: No space left.*; free.*name.*ORTHOPLEX_STATE",
        "folder": f"cannot make {target}: No sp",
    }
    with pytest.raises(StoreError, match=said[where]):
        pull(track, {"": first}, target)
    assert not target.exists() and not [path for path in (disk.path / "files").rglob("*") if path.is_file()]
    filler.unlink()
    assert pull(track, {"": first}, target) == 160
