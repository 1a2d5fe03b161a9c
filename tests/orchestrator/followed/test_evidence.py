"""Evidence that is packed is what stands in the store, and the same log gives the same bytes."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import IntegrityError
from orchestrator.followed.evidence import pack, refuse_faulty
from orchestrator.registry.publish import publish
from orchestrator.registry.references import Version
from tests.support.registries import LEARNED


def packed(version: Version, path: Path, **how: bool) -> Path:
    pack(version.track, path, adapters=how.get("adapters", False), answers=how.get("answers", False), beside={})
    return path


def names(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        return {*archive.getnames()}


def test_the_same_log_gives_the_same_bytes(version: Version, recorder: Any, tmp_path: Path) -> None:
    recorder([1, 0])
    one, two = (packed(version, tmp_path / f"{n}.tar").read_bytes() for n in (1, 2))
    assert one == two
    recorder([1, 1])
    assert packed(version, tmp_path / "3.tar").read_bytes() != one


def test_objects_are_the_stores_own(version: Version, recorder: Any, tmp_path: Path) -> None:
    recorder([1, 0])
    path, root = packed(version, tmp_path / "a.tar"), Path(version.track.store.uri.removeprefix("file://"))
    with tarfile.open(path) as archive:
        found = {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.name.startswith("store/")
        }
    assert found == {f"store/{key}": (root / key).read_bytes() for key in version.track.store.list("t/")}


def test_weights_and_answers_are_left_out_unless_asked_for(version: Version, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("adapter.safetensors", "answers.parquet", "decisions.parquet"):
        (folder / name).write_bytes(b"x")
    publish(version.track, folder, LEARNED, {})
    plain = names(packed(version, tmp_path / "1.tar"))
    kept = [{name.rpartition("/")[2] for name in names(packed(version, tmp_path / f"{how}.tar", **{how: True})) - plain}
            for how in ("adapters", "answers")]  # fmt: skip
    assert kept == [{"adapter.safetensors"}, {"answers.parquet"}]
    assert any(name.endswith("/decisions.parquet") for name in plain)


def test_a_damaged_store_gives_no_evidence(version: Version, tmp_path: Path) -> None:
    (key,) = [key for key in version.track.store.list(version.commit.prefix) if key.endswith("training.parquet")]
    (Path(version.track.store.uri.removeprefix("file://")) / key).write_bytes(b"other")
    with pytest.raises(IntegrityError, match="it was changed"):
        packed(version, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_an_archive_with_faults_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x")
    refuse_faulty(path, [])
    with pytest.raises(IntegrityError, match="was not written: 1 fault found"):
        refuse_faulty(path, ["a fault"])
    assert not path.exists()
