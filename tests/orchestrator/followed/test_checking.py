"""Evidence is checked without its store: what a forger would change is found, each in its own way."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, IntegrityError
from cluster.storage import FileRecord
from orchestrator.followed.checking import check
from orchestrator.followed.evidence import pack
from orchestrator.log.entry import canonical, digest
from orchestrator.registry.references import Version
from orchestrator.track.rules import KeyRule, RulesLog, TeamRules
from orchestrator.track.track import trusting_what_is_there
from tests.support.entries import COMMIT
from tests.support.keys import public_pem, sign_with

Files = dict[str, bytes]


@pytest.fixture
def archive(version: Version, recorder: Any, tmp_path: Path) -> Path:
    """Of a run with two versions and two recorded scores. Its store is gone."""
    recorder([1, 0, 1]), recorder([1, 1, 1])
    RulesLog(version.track.store, version.track.team).change(TeamRules(), expect=0, why="none")
    path = tmp_path / "evidence.tar"
    pack(version.track, path, adapters=False, answers=False, beside={"report.html": b"<html>"})
    shutil.rmtree(Path(version.track.store.uri.removeprefix("file://")))
    return path


def changed(path: Path, change: Callable[[Files], None], more: dict[str, Any] | None = None) -> Path:
    """The archive with other files, and contents.json made to fit: what a forger without a key can do."""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    told = json.loads(files.pop("contents.json"))
    change(files)
    told["files"] = [{"path": n, "size": len(d), "sha256": digest(d)} for n, d in sorted(files.items())]
    told |= more or {}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in {"contents.json": canonical(told), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_it_holds_without_its_store_and_leaves_no_memory(
    archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    made = check(archive)
    assert made.faults == [] and made.run == "default/stream" and made.sealed_by is None and not made.signed
    assert [(each.track, each.versions, each.files) for each in made.reports] == [
        ("default/stream", 2, 2), ("default/stream records", 0, 2),
    ]  # fmt: skip
    assert made.named == 0 and not (tmp_path / "state").exists()


def one(files: Files, ending: str) -> str:
    return next(name for name in sorted(files) if name.endswith(ending))


def replaced(ending: str, data: bytes) -> Callable[[Files], None]:
    return lambda files: files.__setitem__(one(files, ending), data)


def without(ending: str) -> Callable[[Files], None]:
    return lambda files: files.__delitem__(one(files, ending))


def edited(ending: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    def call(files: Files) -> None:
        name = one(files, ending)
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return call


LOG = "stream/log/0999999997.json"  # the first commit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited(LOG, b'"train_s":1.5', b'"train_s":0.5'), "does not follow the one before"),
        (without(LOG), "is missing"),
        (replaced(LOG, b"{}"), "malformed"),
        (edited("manifest.json", b"minilm", b"maxilm"), "manifest.json: was changed"),
        (without("manifest.json"), "is missing"),
        (replaced("training.parquet", b"x"), "differs from its manifest"),
        (replaced("rows.parquet", b"x"), "rows.parquet: was changed"),
        (without("rows.parquet"), "rows.parquet is missing"),
        (edited(".records/stream/log/0999999999.json", b'"rows":3', b'"rows":4'), "does not follow"),
        (lambda files: files.__setitem__("store/t/default/stream/v/1/more.json", b"{}"), "nothing in the log vouches"),
        (lambda files: files.__setitem__("run.sh", b"rm -r /"), "run.sh: nothing in the log vouches"),
        (lambda files: files.__setitem__(f"t/default/{LOG}", b"{}"), f"t/default/{LOG}: nothing in the log vouches"),
        (replaced(".policy/log/0999999999.json", b"{}"), "malformed"),
        (without("stream/log/0999999996.json"), "`heads` are not the newest"),  # the last entry is cut off
    ],
)
def test_what_a_forger_changes_is_found(archive: Path, change: Callable[[Files], None], message: str) -> None:
    made = check(changed(archive, change))
    assert any(message in fault for fault in made.faults), made.faults


def test_a_byte_that_rots_is_found_first(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    place = data.find(b"PAR1")
    data[place + 5] ^= 1
    archive.write_bytes(data)
    (fault,) = check(archive).faults
    assert ".parquet: was changed" in fault


@pytest.mark.parametrize("more", [{"kind": "x"}, {"team": "../x"}, {"name": None}, {"signature": {"key": 3}}])
def test_what_is_no_evidence(archive: Path, more: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=r"contents\.json"):
        check(changed(archive, lambda _: None, more))


def signed_archive(version: Version, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a team whose rules ask for signatures: by ann, an admin; packed by her too."""
    sign_with(tmp_path / "ann", monkeypatch)
    store, team = version.track.store, version.track.team
    keys = {"ann": KeyRule(public_key=public_pem(tmp_path / "ann"))}
    rules = trusting_what_is_there(store, team, TeamRules(), TeamRules(signatures="required", keys=keys))
    RulesLog(store, team).change(rules, expect=0, why="")
    recorder([1, 0, 1])
    path = tmp_path / "evidence.tar"
    pack(version.track, path, adapters=False, answers=False, beside={})
    (tmp_path / "ann.pub").write_text(public_pem(tmp_path / "ann"))
    monkeypatch.delenv("ORTHOPLEX_SIGNING_KEY_FILE")
    return path


def test_signatures_are_checked_and_a_trusted_key_settles_whose_rules_they_are(
    version: Version, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = signed_archive(version, recorder, tmp_path, monkeypatch)
    made = check(path)
    assert made.faults == [] and made.signed and made.sealed_by == "ann" and "--key PEM" in made.notes[0]
    assert check(path, [tmp_path / "ann.pub"]).faults == [] and check(path, [tmp_path / "ann.pub"]).notes == []
    sign_with(tmp_path / "eve", monkeypatch)
    (tmp_path / "eve.pub").write_text(public_pem(tmp_path / "eve"))
    (fault,) = check(path, [tmp_path / "eve.pub"]).faults
    assert "rules are not signed by a key that --key names" in fault
    made = check(changed(path, lambda files: files.__setitem__("report.html", b"all is well")))
    assert made.faults == ["contents.json: its signature is of no key that the rules list, or does not match"]


def test_rules_that_were_taken_out_or_made_up_are_found_with_a_key(
    version: Version, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = signed_archive(version, recorder, tmp_path, monkeypatch)

    def no_rules(files: Files) -> None:
        for name in [name for name in files if "/.policy/" in name]:
            del files[name]

    with tarfile.open(path) as archive:
        heads = json.loads(archive.extractfile("contents.json").read())["heads"]  # type: ignore[union-attr]
    heads.pop("default/.policy")
    changed(path, no_rules, {"signature": None, "heads": heads})
    assert check(path).faults == [] and not check(path).signed  # what no signature is asked for says no more than that
    faults = check(path, [tmp_path / "ann.pub"]).faults
    assert len(faults) == 3 and "not signed by a key that --key names" in faults[0] and "no signatures" in faults[1]


def test_keys_that_cannot_be_read(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--key .*absent.*cannot be read"):
        check(archive, [tmp_path / "absent"])
    (tmp_path / "text").write_text("no key")
    with pytest.raises(ConfigError, match="not a PEM public key"):
        check(archive, [tmp_path / "text"])


def test_what_is_quarantined_is_part_of_the_evidence(fake_run: Any, tmp_path: Path) -> None:
    run = fake_run("a", "b")
    run.commit([0.9, 0.2], zero_shot=[0.5, 0.05])
    track, prefix = run.track, run.track.fresh_prefix()
    track.store.put(f"{prefix}/training.parquet", b"x")
    files = [FileRecord("training.parquet", 1, digest(b"x"))]
    sha256 = track.write_manifest(prefix, {"base_model": {"name": "minilm"}}, files)
    body = {**COMMIT, "version": 2, "task": "b", "prefix": prefix, "manifest_sha256": sha256, "identity": "i"}
    run.append("quarantine", body)
    pack(track, tmp_path / "q.tar", adapters=False, answers=False, beside={})
    made = check(tmp_path / "q.tar")
    assert made.faults == [] and made.reports[0].files == 2
    edit = lambda files: files.__setitem__(f"store/{prefix}/training.parquet", b"y")  # noqa: E731
    assert "differs from its manifest" in check(changed(tmp_path / "q.tar", edit)).faults[0]
