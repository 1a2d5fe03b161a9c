"""Names are safe; versions come back whole or not at all."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, IntegrityError, KeyAbsentError, StoreError
from cluster.storage import FileRecord, upload_files
from orchestrator.log.entry import canonical
from orchestrator.track.layout import list_tracks
from orchestrator.track.track import Track
from tests.support.registries import folder_track


@pytest.fixture
def track(tmp_path: Path) -> Track:
    return folder_track(tmp_path / "store")


@pytest.mark.parametrize("name", ["", "A", ".x", "-x", "a/b", "..", "a\n", "ä", "x" * 101, "a b"])
def test_names_that_are_refused(track: Track, name: str) -> None:
    for team, stream in ((name, "stream"), ("team", name)):
        with pytest.raises(ConfigError):
            Track(track.store, team, stream)


@pytest.fixture
def version(track: Track, tmp_path: Path) -> tuple[str, str]:
    """A written version: (prefix, sha256 of its manifest)."""
    folder = tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"\0\1\2")
    (folder / "sub" / "log.parquet").write_bytes(b"rows")
    prefix = track.fresh_prefix()
    return prefix, track.write_manifest(prefix, {"task": "täsk"}, upload_files(track.store, prefix, folder))


def test_a_version_comes_back(track: Track, version: tuple[str, str]) -> None:
    prefix, sha256 = version
    assert prefix.startswith("t/team/stream/v/") and len(prefix.rpartition("/")[2]) == 32
    data = track.store.get(f"{prefix}/manifest.json")
    assert hashlib.sha256(data).hexdigest() == sha256
    assert json.loads(data) == {
        "format_version": 1,
        "task": "täsk",
        "files": [
            {"path": "adapter.safetensors", "size": 3, "sha256": hashlib.sha256(b"\0\1\2").hexdigest()},
            {"path": "sub/log.parquet", "size": 4, "sha256": hashlib.sha256(b"rows").hexdigest()},
        ],
    }
    manifest = track.read_manifest(prefix, sha256)
    assert manifest == json.loads(data)
    assert track.read_file(prefix, manifest, "sub/log.parquet") == b"rows"
    assert track.fresh_prefix() != track.fresh_prefix()
    assert list_tracks(track.store) == []


def test_a_changed_manifest_is_refused(track: Track, version: tuple[str, str]) -> None:
    prefix, sha256 = version
    with pytest.raises(IntegrityError, match="was changed"):
        track.read_manifest(prefix, "0" * 64)
    track.store.put(f"{prefix}/manifest.json", track.store.get(f"{prefix}/manifest.json") + b"\n")
    with pytest.raises(IntegrityError, match="was changed"):
        track.read_manifest(prefix, sha256)
    with pytest.raises(IntegrityError, match="is missing"):
        track.read_manifest(track.fresh_prefix(), sha256)


@pytest.mark.parametrize("change", [b"\0\1\3", b"\0\1\2\0", b"", None])
def test_a_changed_file_is_refused(track: Track, version: tuple[str, str], change: bytes | None) -> None:
    prefix, sha256 = version
    manifest = track.read_manifest(prefix, sha256)
    if change is None:
        (Path(track.store.uri) / prefix / "sub" / "log.parquet").unlink()
    else:
        track.store.put(f"{prefix}/adapter.safetensors", change)
    path = "sub/log.parquet" if change is None else "adapter.safetensors"
    with pytest.raises(
        IntegrityError, match=r"sub/log.parquet is missing|adapter.safetensors(: differs|' has more than the 3 bytes)"
    ):
        track.read_file(prefix, manifest, path)
    with pytest.raises(KeyAbsentError, match="lists no file"):
        track.read_file(prefix, manifest, "manifest.json")


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "", ".", "manifest.json", ".tmp/x", 3, None]
)
def test_hostile_paths_in_a_manifest_are_refused(track: Track, tmp_path: Path, path: Any) -> None:
    record = {"path": path, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    manifest = {"format_version": 1, "files": [record]}
    data, prefix = canonical(manifest), track.fresh_prefix()
    track.store.put(f"{prefix}/manifest.json", data)
    for call in (
        lambda: track.read_manifest(prefix, hashlib.sha256(data).hexdigest()),
        lambda: track.write_manifest(prefix, {}, [FileRecord(path, 0, record["sha256"])]),
    ):
        with pytest.raises(IntegrityError, match="unsafe"):
            call()
    assert {entry.name for entry in tmp_path.iterdir()} == {"store"}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"no", IntegrityError),
        (b"[]", IntegrityError),
        (b"{}", IntegrityError),
        (b'{"format_version":1}', IntegrityError),
        (b'{"format_version":1,"files":[{}]}', IntegrityError),
        (b'{"format_version":1,"files":[1]}', IntegrityError),
        (b'{"format_version":2,"files":[]}', StoreError),
    ],
)
def test_malformed_manifests_are_refused(track: Track, data: bytes, error: type[Exception]) -> None:
    prefix = track.fresh_prefix()
    track.store.put(f"{prefix}/manifest.json", data)
    with pytest.raises(StoreError) as caught:
        track.read_manifest(prefix, hashlib.sha256(data).hexdigest())
    assert type(caught.value) is error


def test_manifests_that_are_not_written(track: Track) -> None:
    record = FileRecord("a", 0, hashlib.sha256(b"").hexdigest())
    for metadata in ({"files": []}, {"format_version": 2}, {"x": float("nan")}):
        with pytest.raises(ValueError, match=r"may not hold|not JSON compliant"):
            track.write_manifest(track.fresh_prefix(), metadata, [record])
    with pytest.raises(IntegrityError, match="repeated"):
        track.write_manifest(track.fresh_prefix(), {}, [record, record])
    assert track.store.list("") == []
