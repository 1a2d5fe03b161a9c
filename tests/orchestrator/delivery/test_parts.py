"""What is answered so far: whose it is, where it is kept, and what is left of it in the end."""

import json
from pathlib import Path

import pytest

from cluster.errors import ConfigError, StoreError
from cluster.storage import open_store
from cluster.storage.disk import DiskFullError
from orchestrator.delivery.parts import JOB, Mirror, Parts, placed
from orchestrator.delivery.tables import part_of
from tests.support.disks import Disk

JOB_A, JOB_B = {"adapter": "a"}, {"adapter": "b"}
ROWS = [[{"n": 0}, {"n": 1}], [{"n": 2}]]


def filled(parts: Parts, *numbers: int) -> None:
    for number in numbers:
        parts.put(number, part_of(parts.form, ROWS[number]))


def test_parts_of_a_job_are_gone_on_with_and_joined_in_order(tmp_path: Path) -> None:
    for form in ("jsonl", "parquet"):
        parts = Parts(output=tmp_path / f"out.{form}", form=form, size=2)
        parts.check(replace=False)
        parts.begin(JOB_A)
        filled(parts, 1)
        assert parts.there() == {1: 1}
        with pytest.raises(ConfigError, match=r"beginning of another prediction \(adapter differ\)"):
            parts.begin(JOB_B)
        parts.begin(JOB_A)
        filled(parts, 0)
        assert parts.there() == {0: 2, 1: 1}
        parts.finish(2)
    assert [json.loads(line)["n"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.parquet"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_part_that_is_cut_is_answered_again(tmp_path: Path, form: str) -> None:
    parts = Parts(output=tmp_path / "out", form=form, size=2)
    parts.check(replace=False)
    parts.begin(JOB_A)
    filled(parts, 0, 1)
    whole = parts.part(0).read_bytes()
    parts.part(0).write_bytes(whole[: len(whole) // 2])
    assert parts.there() == {1: 1}
    parts.part(1).write_bytes(b"")
    assert parts.there() == {}


@pytest.mark.parametrize("held", ["", "{", "[1]", "\udcff"])
def test_a_damaged_job_is_refused(tmp_path: Path, held: str) -> None:
    """Its parts stay."""
    parts = Parts(output=tmp_path / "out.jsonl", form="jsonl", size=2)
    parts.check(replace=False)
    parts.begin(JOB_A)
    filled(parts, 0)
    (parts.folder / JOB).write_bytes(held.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match="remove the folder"):
        parts.begin(JOB_A)
    assert parts.there() == {0: 2}


def test_parts_without_a_job_are_what_was_left_of_a_finished_prediction(tmp_path: Path) -> None:
    """As after a kill while the parts were removed."""
    parts = Parts(output=tmp_path / "out.jsonl", form="jsonl", size=2)
    parts.check(replace=False)
    parts.begin(JOB_A)
    filled(parts, 0, 1)
    (parts.folder / JOB).unlink()
    parts.output.write_text("")
    with pytest.raises(ConfigError, match="exists already"):
        parts.check(replace=False)
    parts.check(replace=True)
    parts.begin(JOB_B)
    assert parts.there() == {}


def test_an_output_in_a_bucket(s3_bucket: str, tmp_path: Path) -> None:
    """Another machine goes on; in the end there is the output alone."""
    uri, store = f"s3://{s3_bucket}/new/out.jsonl", open_store(f"s3://{s3_bucket}")
    first, second = (Parts(output=path, form="jsonl", size=2, mirror=mirror) for path, mirror in (
        placed(uri, tmp_path / name) for name in "ab"
    ))  # fmt: skip
    first.check(replace=False)
    first.begin(JOB_A)
    filled(first, 0)
    assert store.list("") == ["new/out.jsonl.parts/00000000.jsonl", "new/out.jsonl.parts/job.json"]
    second.check(replace=False)
    with pytest.raises(ConfigError, match=rf"'{uri}.parts' holds the beginning of another prediction"):
        second.begin(JOB_B)
    second.begin(JOB_A)
    assert second.there() == {0: 2}
    filled(second, 1)
    second.finish(2)
    assert store.list("") == ["new/out.jsonl"] and store.get("new/out.jsonl") == b'{"n": 0}\n{"n": 1}\n{"n": 2}\n'
    with pytest.raises(ConfigError, match=rf"--output '{uri}': exists already"):
        first.check(replace=False)


def test_where_an_output_is(tmp_path: Path) -> None:
    assert placed("a/b.csv", tmp_path) == (Path("a/b.csv"), None)
    path, mirror = placed("s3://bucket/a/b.csv", tmp_path)
    assert path == tmp_path / "s3:/bucket/a/b.csv" and isinstance(mirror, Mirror) and mirror.key == "a/b.csv"
    for uri in ("s3://bucket", "s3://bucket/a/"):
        with pytest.raises(ConfigError, match="names no object; write s3://BUCKET/KEY"):
            placed(uri, tmp_path)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("at", ["part", "join"])
def test_a_full_disk_is_named_and_what_is_answered_stays(disk: Disk, form: str, at: str) -> None:
    parts = Parts(output=disk.path / f"out.{form}", form=form, size=2)
    parts.check(replace=False)
    parts.begin(JOB_A)
    filled(parts, *([0, 1] if at == "join" else [0]))
    filler = disk.fill()
    said = f"cannot write --output '{disk.path}/out.{form}', whose answers so far are kept in .*: No space left.*; free"
    with pytest.raises(DiskFullError, match=said):
        parts.finish(2) if at == "join" else filled(parts, 1)
    assert not parts.output.exists() and not [path for path in parts.folder.iterdir() if path.name.startswith(".")]
    assert parts.there() == ({0: 2, 1: 1} if at == "join" else {0: 2})
    filler.unlink()
    parts.begin(JOB_A)
    filled(parts, *({0, 1} - parts.there().keys()))
    parts.finish(2)
    assert [path.name for path in disk.path.iterdir()] == [parts.output.name]


def test_a_disk_that_is_full_or_read_only_from_the_start(disk: Disk) -> None:
    parts = Parts(output=disk.path / "out.jsonl", form="jsonl", size=2)
    parts.check(replace=False)
    disk.fill()
    with pytest.raises(DiskFullError, match=f"--output '{disk.path}/out.jsonl'.*No space left"):
        parts.begin(JOB_A)
    assert not (parts.folder / JOB).exists()
    disk.remount("ro")
    with pytest.raises(ConfigError, match=f"--output '{disk.path}/x': cannot be written: Read-only.*choose another"):
        Parts(output=disk.path / "x", form="jsonl", size=2).check(replace=False)
    with pytest.raises(StoreError, match=f"--output '{disk.path}/out.jsonl'.*Read-only"), parts.alone():
        pass
