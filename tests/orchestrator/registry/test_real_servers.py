"""The registry on real servers and bad networks: what policies allow, faults, wrong clocks, a server to refuse."""

import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StoreError
from cluster.storage import S3Store, probe
from orchestrator.log.event import parse
from orchestrator.registry.aliases import promote
from orchestrator.registry.catalog import listed
from orchestrator.registry.gc import Collector
from orchestrator.registry.pull import pull
from orchestrator.registry.verify import verify
from orchestrator.track.events import Commit
from orchestrator.track.rules import RulesLog, TeamRules
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from tests.conftest import Ceph
from tests.support.command_line import here
from tests.support.entries import Raw
from tests.support.fault_proxy import DELAY_S, EVERYTHING, FaultProxy
from tests.support.registries import publish_one


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["s3_bucket", pytest.param("ceph_bucket", marks=pytest.mark.s3)])
def test_a_faulty_network(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """One writer never meets a conflict; four publishers lose nothing and write nothing twice."""
    name, direct = request.getfixturevalue(bucket), os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setattr("cluster.storage.s3.READ_TIMEOUT_S", DELAY_S / 2)
    monkeypatch.setattr("cluster.storage.retry.FIRST_WAIT_S", 0.005)
    monkeypatch.setattr("cluster.storage.retry.LONGEST_WAIT_S", 0.05)
    proxy = FaultProxy(direct, EVERYTHING)
    with proxy.serving() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = S3Store(name)
        alone, after = Track(store, "team", "alone"), None
        for number in range(30):
            after = alone.append(Raw("x", {"number": number}), after=after)
        assert [entry.body["number"] for entry in alone.entries()] == [*range(30)]

        def write(writer: int) -> None:
            for number in range(4):
                publish_one(Track(store, "team", "together"), tmp_path, (writer, number))

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        promote(Track(store, "team", "together"), 3, "production", expect=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", direct)
    together = Track(S3Store(name), "team", "together")
    assert [commit.version for commit in replay("team", "together", together.entries()).commits] == [*range(1, 17)]
    report = verify(together)
    assert (report.faults, report.entries, report.files) == ([], 17, 32)
    assert all(proxy.counts[fault] for fault in EVERYTHING)


# --- policies, as they are printed


@pytest.fixture
def team_a(
    ceph: Ceph, ceph_bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], S3Store]:
    """A bucket with what `orthoplex adapters policy` prints for each role of team a; as(role) is its user's store."""
    statements, keys = list[dict[str, Any]](), dict[str, str]()
    for role in ("reader", "publisher", "promoter", "gc", "admin"):
        user = f"{role}{uuid.uuid4().hex[:8]}"
        keys[role] = user
        ceph.script("user", ceph.root, ceph.folder, user, f"AK{user}", f"SK{user}")
        words = ["--team", "a", "--role", role, "--bucket", ceph_bucket, "--prefix", "p"]
        principal = f"arn:aws:iam:::user/{user}"
        code, out, err = here(monkeypatch, capsys, "adapters", "policy", *words, "--principal", principal)
        assert code == 0, err
        statements += json.loads(out)["Statement"]
    document = {"Version": "2012-10-17", "Statement": statements}
    ceph.client().put_bucket_policy(Bucket=ceph_bucket, Policy=json.dumps(document))

    def store_of(role: str) -> S3Store:
        with monkeypatch.context() as patch:
            for variable, value in {"ACCESS_KEY_ID": "AK", "SECRET_ACCESS_KEY": "SK"}.items():
                patch.setenv(f"AWS_{variable}", value + keys[role])
            made = S3Store(ceph_bucket, "p")
            assert made.client and made.bulk
        return made

    return store_of


@pytest.mark.s3
def test_each_role_does_its_work_and_no_more(
    team_a: Callable[[str], S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document that is printed, on a server that enforces it."""
    stores = {role: team_a(role) for role in ("reader", "publisher", "promoter", "gc", "admin")}
    tracks = {role: Track(store, "a", "run") for role, store in stores.items()}
    probe(stores["publisher"])
    for number in range(2):
        publish_one(tracks["publisher"], tmp_path, number)
    left = tracks["publisher"].fresh_prefix()
    stores["publisher"].put(f"{left}/file", b"left over")
    promote(tracks["promoter"], 1, "production")
    RulesLog(stores["admin"], "a").change(TeamRules(), expect=0, why="none yet")
    assert Collector(tracks["gc"], timedelta(0)).collect().remove == (left,)
    for role, track in tracks.items():  # everyone reads all
        assert [row["version"] for row in listed(stores[role], "a")] == [1, 2]
        assert verify(track).faults == []
    commit = parse(tracks["reader"].entries()[0], Commit)
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    assert pull(tracks["reader"], {"": commit}, tmp_path / "pulled") == 160

    def change_rules(role: str) -> None:
        RulesLog(stores[role], "a").change(TeamRules(), expect=1, why="")

    file = f"{commit.prefix}/adapter.safetensors"
    works: dict[str, Callable[[str], Any]] = {  # what only some may: by whom
        "publisher": lambda role: publish_one(Track(stores[role], "a", "run"), tmp_path),
        "publisher, promoter, gc": lambda role: promote(Track(stores[role], "a", "run"), 2, "candidate"),
        "admin": change_rules,
        "gc": lambda role: stores[role].delete(file),
        "": lambda role: stores[role].delete(f"t/a/run/log/{10**9 - 1:010d}.json"),
        " ": lambda role: stores[role].delete(f"t/a/.policy/log/{10**9 - 1:010d}.json"),
    }
    for allowed, work in works.items():
        for role in stores.keys() - {*allowed.strip().split(", ")}:
            with pytest.raises(StoreError, match="access denied"):
                work(role)
    assert parse(tracks["reader"].entries()[0], Commit) == commit and verify(tracks["reader"]).faults == []


@pytest.mark.s3
def test_teams_are_kept_apart_by_the_server(team_a: Callable[[str], S3Store], ceph_bucket: str, tmp_path: Path) -> None:
    """No role of team a reads, lists, writes or promotes anything of team b's, or of ab's."""
    owner = S3Store(ceph_bucket, "p")
    before = {}
    for team in ("b", "ab"):
        publish_one(Track(owner, team, "stream"), tmp_path)
        before[team] = owner.list(f"t/{team}/")
    for role in ("reader", "publisher", "promoter", "gc", "admin"):
        store = team_a(role)
        for call in [call for team, keys in before.items() for call in touching(store, team, keys, tmp_path)]:
            with pytest.raises(StoreError, match="access denied"):
                call()
    assert {team: owner.list(f"t/{team}/") for team in before} == before


def touching(store: S3Store, team: str, keys: list[str], folder: Path) -> list[Callable[[], Any]]:
    """All that could be done to a team whose objects are `keys`."""
    log, second = (f"t/{team}/stream/log/{10**9 - seq:010d}.json" for seq in (1, 2))
    track = Track(store, team, "stream")
    assert log in keys
    return [
        lambda: store.get(log),
        lambda: store.get(keys[-1]),
        lambda: store.put(f"t/{team}/stream/v/x/y", b""),
        lambda: store.put_if_absent(second, b"{}"),
        lambda: store.list(f"t/{team}/"),
        lambda: store.list_folders(f"t/{team}"),
        lambda: store.list(""),
        lambda: store.list_folders("t"),
        lambda: store.delete(keys[-1]),
        lambda: store.delete(log),
        lambda: promote(track, 1, "production"),
        lambda: publish_one(track, folder),
        track.head,
    ]


@pytest.fixture
def rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of rclone's S3 server, which ignores `If-None-Match`."""
    beside = Path(sys.executable).with_name("rclone")
    if not (program := str(beside) if beside.exists() else shutil.which("rclone")):
        pytest.skip("no rclone here; `make test-s3` installs it")
    (tmp_path / "served/bucket").mkdir(parents=True)
    port = 19_000 + os.getpid() % 900
    words = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "AKrclone,SKrclone", str(tmp_path / "served")]
    environment = {**os.environ, "RCLONE_CONFIG": str(tmp_path / "rclone.conf")}
    with subprocess.Popen([program, *words], env=environment, stderr=subprocess.DEVNULL) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKrclone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SKrclone")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield "bucket"
        server.terminate()


@pytest.mark.s3
def test_a_server_that_ignores_the_condition_is_refused(rclone: str) -> None:
    store = S3Store(rclone)
    store.put("there", b"and reachable")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"two runs could overwrite each other.*If-None-Match"):
            probe(store)
