"""Versions are numbered upwards, and what their manifests say is checked where it is read."""

from typing import Any, NamedTuple

import pytest

from cluster.errors import IntegrityError, StoreError
from orchestrator.log.entry import canonical, digest
from orchestrator.track.state import check_follows
from orchestrator.track.track import parse_manifest

FILE = {"path": "a", "size": 1, "sha256": digest(b"x")}
MANIFEST: dict[str, Any] = {
    "format_version": 1, "files": [FILE], "base_model": {"name": "minilm", "dtype": "float32"}, "base_digest": "b" * 64,
    "code": {"git_commit": None, "git_changed": False}, "parents": [], "later": {"of a newer version": [1]},
}  # fmt: skip


class Made(NamedTuple):
    seq: int
    version: int


def test_versions_are_numbered_upwards() -> None:
    check_follows("t/x", None, Made(3, 1))
    check_follows("t/x", Made(3, 1), Made(5, 4))  # of a joint run
    for version in (4, 2):
        with pytest.raises(
            IntegrityError, match=rf"^t/x: entry 9 \(commit\): version: {version}, but entry 5 committed"
        ):
            check_follows("t/x", Made(5, 4), Made(9, version))


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert parse_manifest(canonical(MANIFEST), "m") == MANIFEST
    assert parse_manifest(canonical({"format_version": 1, "files": []}), "m") == {"format_version": 1, "files": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_model": "minilm"}, "base_model: input should be"),
        ({"base_model": {"name": 3}}, "base_model.name: input should be a valid string"),
        ({"base_digest": 3}, "base_digest"),
        ({"code": [1]}, "code"),
        ({"code": {"git_commit": {}}}, "code.git_commit"),
        ({"files": [{**FILE, "path": "../a"}]}, "unsafe"),
        ({"files": [{"path": "a"}]}, r"malformed \(KeyError\('size'\)\)"),
        ({"files": None}, "malformed"),
    ],
)
def test_a_malformed_manifest_names_its_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        parse_manifest(canonical({**MANIFEST, **change}), "m")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"\xff", b"[" * 100_000, b'{"format_version":1,"files":[],"x":NaN}',
        b'{"files":[],"format_version":1} ', b'{"files":[],"files":[],"format_version":1}',
    ],
)  # fmt: skip
def test_what_is_no_canonical_json_is_no_manifest(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^m: is malformed .*; do not use this version$"):
        parse_manifest(data, "m")


def test_a_manifest_of_a_newer_version() -> None:
    with pytest.raises(StoreError, match=r"^m: unknown format_version 2; update orthoplex$"):
        parse_manifest(canonical({**MANIFEST, "format_version": 2}), "m")
