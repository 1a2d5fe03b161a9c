"""What people call a version is found, or the message says what there is."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from orchestrator.registry.aliases import promote
from orchestrator.registry.references import find_track, parse_reference, resolve
from orchestrator.track.track import Track
from tests.support.registries import publish_one, track_with


@pytest.fixture
def track(tmp_path: Path) -> Track:
    made = track_with(3, tmp_path)
    promote(made, 2, "production")
    return made


def test_a_version_travels_whole(track: Track) -> None:
    found = resolve(track.store, "stream@production")
    assert (found.reference, found.commit.version, found.track.label) == ("team/stream@v2", 2, "team/stream")
    assert [commit.version for commit in found.stream] == [1, 2] and len(found.state.commits) == 3
    assert found.entries == track.entries() and resolve(track.store, "team/stream@v2").commit == found.commit


@pytest.mark.parametrize(("which", "number"), [("v1", 1), ("v12", 12), ("v01", -1), ("production", None), ("vv", None)])
def test_numbers(which: str, number: int | None) -> None:
    parsed = parse_reference(f"team/stream@{which}")
    assert (parsed.track, parsed.which, parsed.number) == ("team/stream", which, number)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("stream", "expected RUN@vN or RUN@ALIAS"),
        ("@v1", "expected RUN@vN or RUN@ALIAS"),
        ("stream@v4", "^ADAPTER 'stream@v4': no such version; team/stream has v1, v2, v3"),
        ("stream@v01", "no such version"),
        ("stream@best", "no such alias; team/stream has production"),
        ("strem@v1", "did you mean 'stream'"),
        ("x@v1", "which holds team/stream"),
    ],
)
def test_what_there_is_not(track: Track, reference: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(track.store, reference)


def test_a_number_has_no_history(track: Track) -> None:
    with pytest.raises(ConfigError, match="--at: v1 always names the same version"):
        resolve(track.store, "stream@v1", "2026-01-01")
    with pytest.raises(ConfigError, match="named nothing yet"):
        resolve(track.store, "stream@production", "2020-01-01")


def test_a_name_that_two_teams_have(track: Track, tmp_path: Path) -> None:
    publish_one(Track(track.store, "other", "stream"), tmp_path)
    with pytest.raises(ConfigError, match="several teams have one; give one of other/stream, team/stream"):
        find_track(track.store, "stream")
    assert find_track(track.store, "other/stream").team == "other"
