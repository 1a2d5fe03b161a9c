"""Where a team's rules ask for signatures, only those whom they name, in the roles they give, are believed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.errors import ConfigError, IntegrityError
from orchestrator.log.entry import canonical
from orchestrator.registry.aliases import promote
from orchestrator.registry.verify import verify
from orchestrator.track.rules import RulesLog, TeamRules, Unsigned, parse_rules
from orchestrator.track.track import Track
from tests.support.entries import COMMIT, Raw
from tests.support.keys import sign_with
from tests.support.registries import folder_track, fresh, publish_one, read_everything


def test_signed_entries_are_read(signed: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_one(signed, tmp_path)
    promote(signed, 2, "production")
    sign_with(tmp_path / "bob", monkeypatch)
    publish_one(signed, tmp_path)
    entries = fresh(signed).entries()
    assert [entry.signature is not None for entry in entries] == [False, True, True, True]
    assert len(read_everything(signed.store)) == 3
    content = json.loads((tmp_path / "store/t/team/stream/log/0999999996.json").read_bytes())
    assert content["signature"].keys() == {"key", "ed25519"}


@pytest.mark.parametrize(
    ("who", "op", "message"),
    [
        (None, "commit", "is not signed"),
        ("stranger", "commit", "which the team's rules do not list"),
        ("bob", "promote", "is signed by bob, who is not a promoter in the team's rules"),
        ("bob", "abort", "who is not a gc in the team's rules"),
    ],
)
def test_others_are_not_believed(
    signed: Track, *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str | None, op: str, message: str
) -> None:
    monkeypatch.delenv("ORTHOPLEX_SIGNING_KEY_FILE")
    if who:
        sign_with(tmp_path / who, monkeypatch)
    says = Raw(op, {**COMMIT, "prefixes": []})
    with pytest.raises(ConfigError, match=rf"SIGNING_KEY_FILE: .*{message}.*; nothing was written"):
        signed.append(says, after=signed.head())
    assert fresh(signed).head() == signed.head()
    monkeypatch.setattr(Track, "_refuse_unbelieved", lambda *_: None)  # who does not keep to the rules
    signed.append(says, after=signed.head())
    for read in (fresh(signed).head, fresh(signed).entries, fresh(signed).brief):
        with pytest.raises(IntegrityError, match=rf"entry 2 .*{message}"):
            read()


def test_a_signature_is_good_in_its_place_alone(signed: Track, tmp_path: Path) -> None:
    """The same entry, signed for another track, or changed after it was signed."""
    other = Track(signed.store, "team", "other")
    publish_one(other, tmp_path)
    shutil.copytree(tmp_path / "store/t/team/other", tmp_path / "store/t/team/copied")
    with pytest.raises(IntegrityError, match="has a signature that does not match, said to be of lead"):
        Track(signed.store, "team", "copied").entries()
    path = tmp_path / "store/t/team/other/log/0999999999.json"
    path.write_bytes(canonical({**json.loads(path.read_bytes()), "version": 7}))
    with pytest.raises(IntegrityError, match="does not match"):
        Track(signed.store, "team", "other").entries()


def test_what_was_there_before_is_vouched_for_by_digest(signed: Track, tmp_path: Path) -> None:
    path = tmp_path / "store/t/team/stream/log/0999999999.json"
    path.write_bytes(canonical({**json.loads(path.read_bytes()), "version": 7}))
    with pytest.raises(IntegrityError, match="is not the one that the team's rules vouch for"):
        fresh(signed).entries()


def test_keys_as_openssl_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    shown = subprocess.run(
        ["openssl", "pkey", "-in", key, "-pubout"], check=True, capture_output=True, text=True
    ).stdout
    rules = parse_rules({"signatures": "required", "keys": {"me": {"public_key": shown}}}, "rules.yaml")
    monkeypatch.setenv("ORTHOPLEX_SIGNING_KEY_FILE", str(key))
    track = folder_track(tmp_path / "store")
    RulesLog(track.store, "team").change(rules, expect=0, why="")
    publish_one(track, tmp_path)
    assert fresh(track).entries()[0].signature is not None


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PRIVATE KEY-----\n", b"\xff"])
def test_keys_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("ORTHOPLEX_SIGNING_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(ConfigError, match="ORTHOPLEX_SIGNING_KEY_FILE: ") as caught:
        publish_one(folder_track(tmp_path / "store"), tmp_path)
    assert "BEGIN" not in str(caught.value)
    assert not (tmp_path / "store/t/team/stream/log").exists()


# --- what a writer to the folder cannot switch off


def seen_once(track: Track, folder: Path) -> None:
    """This machine has read the rules and the track, which has a signed entry."""
    publish_one(track, folder)
    assert len(fresh(track).entries()) == 2


def test_rules_that_were_seen_and_are_gone(signed: Track, tmp_path: Path) -> None:
    """Without them no entry need be signed, so that whoever may write to the folder could add what they like."""
    seen_once(signed, tmp_path)
    shutil.rmtree(tmp_path / "store/t/team/.policy")
    again = folder_track(tmp_path / "store")
    for read in (again.head, again.entries, again.brief, again.raw_entries):
        with pytest.raises(IntegrityError, match=r"rules of team team .* are gone, of which revision 1 was seen here"):
            read()
    assert "rules of team team" in verify(folder_track(tmp_path / "store")).faults[0]
    with pytest.raises(IntegrityError, match="are gone"):
        publish_one(folder_track(tmp_path / "store"), tmp_path)
    with pytest.raises(IntegrityError, match="are gone"):
        RulesLog(again.store, "team").current()


def test_rules_are_begun_anew_with_the_folder(signed: Track, tmp_path: Path) -> None:
    seen_once(signed, tmp_path)
    shutil.rmtree(tmp_path / "store")
    again = folder_track(tmp_path / "store")
    assert RulesLog(again.store, "team").current() == (0, TeamRules())
    assert publish_one(again, tmp_path).seq == 1 and len(folder_track(tmp_path / "store").entries()) == 1


def test_rules_that_are_gone_on_purpose(signed: Track, tmp_path: Path) -> None:
    """The message names the file that is to be removed then."""
    seen_once(signed, tmp_path)
    shutil.rmtree(tmp_path / "store/t/team/.policy")
    with pytest.raises(IntegrityError) as caught:
        folder_track(tmp_path / "store").entries()
    Path(str(caught.value).rpartition("remove ")[2]).unlink()
    assert len(folder_track(tmp_path / "store").entries()) == 2


def test_unsigned_entries_in_place_of_those_that_the_rules_vouch_for(
    signed: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shorter log, which has none of those that need a signature; to a machine that has seen nothing as well."""
    rules = RulesLog(signed.store, "team")
    unsigned = {"stream": Unsigned(seq=5, sha256="0" * 64)}
    rules.change(rules.current()[1].model_copy(update={"unsigned": unsigned}), expect=1, why="five entries were there")
    for state in ("seen", "new"):
        monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / state))
        again = folder_track(tmp_path / "store")
        for read in (again.head, again.entries, again.brief):
            with pytest.raises(IntegrityError, match=r"ends before entry 5, which the team's rules vouch for"):
                read()
    shutil.rmtree(tmp_path / "store/t/team/stream/log")
    with pytest.raises(IntegrityError, match=r"remove `unsigned.stream` from the rules"):
        folder_track(tmp_path / "store").entries()


def test_a_signed_log_that_is_gone_is_no_new_one(signed: Track, tmp_path: Path) -> None:
    """Else it could be taken away, and an older copy of it put there once this machine had forgotten it."""
    rules = RulesLog(signed.store, "team")
    rules.change(rules.current()[1].model_copy(update={"unsigned": {}}), expect=1, why="nothing was there")
    other = Track(signed.store, "team", "other")
    publish_one(other, tmp_path)
    shutil.rmtree(tmp_path / "store/t/team/other")
    with pytest.raises(IntegrityError, match=r"ends before entry 1, which was seen here before"):
        Track(signed.store, "team", "other").entries()
