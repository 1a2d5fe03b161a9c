"""Whatever is done to what is stored shows when it is read: 500 corruptions drawn by seed (150 in
the suite, all with `make test-all`), hostile names, manifests."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, IntegrityError
from cluster.storage import LocalStore, is_key
from orchestrator.log.entry import canonical, digest
from orchestrator.registry.aliases import promote, rollback
from orchestrator.registry.references import resolve
from orchestrator.registry.verify import verify
from orchestrator.track.rules import KeyRule, RulesLog, TeamRules
from orchestrator.track.track import Track, manifest_files
from tests.support.entries import Raw
from tests.support.keys import public_pem, sign_with
from tests.support.registries import folder_track, publish_one, read_everything
from tests.support.sample import some

CASES = some(500, 150)


def filled(root: Path, folder: Path) -> Track:
    """Four versions and three moves of an alias, read once: this machine has seen it."""
    track = folder_track(root)
    for number in range(4):
        publish_one(track, folder, number)
        if number:
            promote(track, number, "production")
    read_everything(track.store)
    return track


def flip(path: Path, _: list[Path], draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, _: list[Path], draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def swap(path: Path, alike: list[Path], draw: random.Random) -> None:
    other = draw.choice([each for each in alike if each != path])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def remove(path: Path, _: list[Path], draw: random.Random) -> None:
    path.unlink()


def lengthen(path: Path, _: list[Path], draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 9)))


def reorder(path: Path, alike: list[Path], draw: random.Random) -> None:
    """Two log entries exchanged and renumbered, so that each alone is well-formed; other files are swapped."""
    other = draw.choice([each for each in alike if each != path])
    if "/log/" not in str(path):
        swap(path, [path, other], draw)
        return
    contents = [json.loads(each.read_bytes()) for each in (path, other)]
    for field in ("seq", "prev_sha256"):
        contents[0][field], contents[1][field] = contents[1][field], contents[0][field]
    other.write_bytes(canonical(contents[0]))
    path.write_bytes(canonical(contents[1]))


def roll_back(path: Path, alike: list[Path], draw: random.Random) -> None:
    """The last entries are gone, as from an older copy of the store."""
    log = sorted(each for each in alike if "/log/" in str(each)) or sorted(path.parents[2].glob("log/*"))
    log = log or sorted(path.parents[3].glob("log/*"))
    for each in log[: draw.randrange(1, len(log))]:
        each.unlink()


def forge(path: Path, _: list[Path], draw: random.Random) -> None:
    """The newest entry rewritten, well-formed: nothing in the log vouches for it."""
    newest = sorted(next(iter(parent for parent in path.parents if (parent / "log").is_dir())).glob("log/*"))[0]
    content = json.loads(newest.read_bytes())
    newest.write_bytes(canonical({**content, "version": draw.randrange(5, 99)}))


KINDS: list[Callable[..., None]] = [flip, truncate, swap, remove, lengthen, reorder, roll_back, forge]


def restored(root: Path, copy: Path) -> None:
    shutil.rmtree(root)
    shutil.copytree(copy, root)


def of_a_kind(path: Path) -> str:
    return "log" if path.parent.name == "log" else path.name


@pytest.mark.parametrize("guard", ["seen", "signed"])
def test_every_corruption_is_detected(guard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a machine that has read the store before; by one that has not, where entries are signed, all but older copies,
    which only memory can tell."""
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    root, copy, kinds = tmp_path / "store", tmp_path / "copy", KINDS
    if guard == "signed":
        sign_with(tmp_path / "key.pem", monkeypatch)
        rules = TeamRules(signatures="required", keys={"me": KeyRule(public_key=public_pem(tmp_path / "key.pem"))})
        RulesLog(LocalStore(root), "team").change(rules, expect=0, why="")
        kinds = [kind for kind in KINDS if kind is not roll_back]
    filled(root, tmp_path)
    shutil.copytree(root, copy)
    files = sorted(path for path in (root / "t/team/stream").rglob("*") if path.is_file())
    assert len(files) == 7 + 4 * 3
    draw, missed = random.Random(11), []
    for number in range(CASES if guard == "seen" else CASES // 2):
        if guard == "signed":
            shutil.rmtree(tmp_path / "state", ignore_errors=True)
        kind, path = draw.choice(kinds), draw.choice(files)
        kind(path, [each for each in files if of_a_kind(each) == of_a_kind(path)], draw)
        try:
            read_everything(LocalStore(root))
            missed.append((number, kind.__name__, path.name))
        except IntegrityError:
            pass
        restored(root, copy)
    newest_gone = [each for each in missed if guard == "signed" and each[1] == "remove" and each[2] == files[0].name]
    assert missed == newest_gone  # which is an older copy
    assert len(read_everything(LocalStore(root))) == 4


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    track = filled(tmp_path / "store", tmp_path)
    report = verify(track)
    sizes = 4 * (100 + 60)
    assert report == type(report)(track="team/stream", entries=7, versions=4, files=8, bytes=sizes)
    versions = sorted((tmp_path / "store" / track.version_root).iterdir())
    (versions[0] / "adapter.safetensors").write_bytes(b"\0" * 100)
    (versions[1] / "sub/log.parquet").unlink()
    (versions[2] / "manifest.json").write_bytes(b"{}")
    track.append(Raw("promote", {"alias": "production", "version": 1, "expect": 0}), after=track.head())
    faults = "\n".join(verify(track).faults)
    for part in (
        "adapter.safetensors: differs",
        "sub/log.parquet: is missing",
        "manifest.json: was changed",
        "entry 8",
    ):
        assert part in faults
    assert faults.count("\n") == 3
    next((tmp_path / "store/t/team/stream/log").iterdir()).write_bytes(b"{}")
    assert len(verify(track).faults) == 1 and "is malformed" in verify(track).faults[0]


# --- what this machine has seen


def test_an_older_log_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "store"
    track = filled(root, tmp_path)
    log = sorted((root / "t/team/stream/log").iterdir())
    newest = log[0].read_bytes()
    log[0].unlink()
    for read in (track.head, track.entries, track.brief, lambda: promote(track, 1, "production")):
        with pytest.raises(IntegrityError, match=r"ends before entry 7, which was seen here before: it was taken back"):
            read()
    assert "taken back" in verify(track).faults[0]
    log[0].write_bytes(newest)
    assert len(track.entries()) == 7
    shutil.rmtree(root)  # a folder that somebody removed to begin anew, by another command
    track = folder_track(root)
    assert track.entries() == []
    publish_one(track, tmp_path)
    assert len(track.entries()) == 1


def test_an_emptied_bucket_is_no_new_one(tmp_path: Path, s3_bucket: str) -> None:
    from cluster.storage import S3Store

    track = Track(S3Store(s3_bucket), "team", "stream")
    publish_one(track, tmp_path)
    track.store.delete(track.store.list(f"{track.root}/log/")[0])
    with pytest.raises(IntegrityError, match="taken back"):
        track.entries()


def test_another_log_that_is_longer_is_refused_each_time(tmp_path: Path) -> None:
    track = filled(tmp_path / "store", tmp_path)
    shutil.rmtree(tmp_path / "store")
    other = folder_track(tmp_path / "other")
    for number in range(9):
        publish_one(other, tmp_path, number)
    shutil.copytree(tmp_path / "other", tmp_path / "store")
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"entry 7 .* is not the one seen here before"):
            track.entries()


# --- hostile names

PARTS = ["..", ".", "", "/", "//", "\\", "a/../b", "../a", "/a", "a/", "a//b", "a\0b", "a\nb", "a b", "ä", "％2e",
         "%2e%2e",
         "~", "$HOME", "`id`", "a;b", "a|b", "C:\\x", "CON:", "a*", "?", "\u202egnp", "\ud800", "x" * 600, "-\0",
         "<b>", "'", '"', "@", "a@b", "@@", ".tmp/x", "...\\", "\t", "\u200b"]  # fmt: skip
AROUND = (("", ""), ("../", ""), ("a/", "/.."), ("", "\n"), ("\\", ""))
HOSTILE = [f"{before}{part}{after}" for part in PARTS for before, after in AROUND]


def test_two_hundred_hostile_names(tmp_path: Path) -> None:
    """As team, track, alias and reference: one message each, and nothing is written."""
    assert len(set(HOSTILE)) >= 190
    store = LocalStore(tmp_path / "store")
    track = filled(tmp_path / "store", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name in HOSTILE:
        calls: list[tuple[Any, ...]] = [
            (Track, store, name, "x"), (Track, store, "x", name), (RulesLog, store, name), (promote, track, 1, name),
            (rollback, track, name), (resolve, store, f"{name}@v1"), (resolve, store, f"team/stream@{name}"),
        ]  # fmt: skip
        for call, *arguments in calls:
            with pytest.raises(ConfigError) as caught:
                call(*arguments)
            assert str(caught.value).count("\n") == 0
        assert not is_key(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_hundred_hostile_paths_in_manifests(tmp_path: Path) -> None:
    for path in [*HOSTILE, "manifest.json", "MANIFEST.json", "manifest.json/x", 3, None, ["a"]]:
        with pytest.raises(IntegrityError, match="unsafe"):
            manifest_files({"files": [{"path": path, "size": 0, "sha256": digest(b"")}]})
    for pair in (("a", "a"), ("a", "A"), ("a", "a/b"), ("a/b", "A")):
        with pytest.raises(IntegrityError, match="repeated"):
            manifest_files({"files": [{"path": path, "size": 0, "sha256": digest(b"")} for path in pair]})
    for size in (-1, True, 1.0, "1", None):
        with pytest.raises(IntegrityError, match="incomplete"):
            manifest_files({"files": [{"path": "a", "size": size, "sha256": digest(b"")}]})


def test_a_commit_that_points_elsewhere(tmp_path: Path) -> None:
    """A log entry of one track cannot pass off the files of another."""
    other = Track(LocalStore(tmp_path / "store"), "team", "other")
    body = publish_one(other, tmp_path).body
    track = folder_track(tmp_path / "store")
    for prefix in (body["prefix"], "../x", "t/team/stream/v/../../other"):
        with pytest.raises(IntegrityError, match="is not in the track"):
            track.read_manifest(prefix, body["manifest_sha256"])
