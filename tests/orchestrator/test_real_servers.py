"""The log on every kind of store, real servers included: eight processes at once, a killed server, teams kept apart."""

import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConflictError, StoreError
from cluster.storage import S3Store, open_store, probe
from orchestrator.registry import Track
from tests.conftest import Ceph
from tests.fault_proxy import DELAY_S, EVERYTHING, FaultProxy

PROCESSES, EACH = 8, 10
PUBLISHER = """
import random, sys, time
from cluster.errors import ConflictError
from cluster.storage import open_store
from orchestrator.registry import Track

uri, writer, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
track = Track(open_store(uri), "team", "stream")
for number in range(count):
    prefix = track.fresh_prefix()
    track.store.put(f"{prefix}/file", f"{writer} {number}".encode())
    for attempt in range(10_000):
        try:
            track.append("commit", {"writer": writer, "number": number, "prefix": prefix}, after=track.head())
            break
        except ConflictError:
            time.sleep(random.uniform(0, 0.02 * min(attempt + 1, 10)))
    print(prefix, flush=True)
"""


@pytest.fixture(
    params=["folder", "moto", pytest.param("ceph", marks=pytest.mark.s3), pytest.param("https", marks=pytest.mark.s3)]
)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    fixture = {"moto": "s3_bucket", "ceph": "ceph_bucket", "https": "ceph_tls_bucket"}[request.param]
    return f"s3://{request.getfixturevalue(fixture)}/a"


def publishers(uri: str, count: int, each: int) -> list["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", PUBLISHER, uri]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return [
        subprocess.Popen([*command, str(n), str(each)], stdout=subprocess.PIPE, text=True, env=environment)
        for n in range(count)
    ]


def test_eight_processes_publish_ten_each(uri: str) -> None:
    """Contiguous, chained, none lost, each writer's in its own order; a reader sees whole versions throughout."""
    processes = publishers(uri, PROCESSES, EACH)
    track, seen = Track(open_store(uri), "team", "stream"), 0
    while any(process.poll() is None for process in processes):
        if head := track.head():
            assert head.seq >= seen
            assert track.store.get(f"{head.body['prefix']}/file").split()[0] == head.body["writer"].encode()
            seen = head.seq
    acknowledged = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * PROCESSES
    entries = track.entries()  # which checks seq and chain
    assert [entry.seq for entry in entries] == [*range(1, PROCESSES * EACH + 1)]
    assert sorted(entry.body["prefix"] for entry in entries) == sorted(acknowledged)
    for writer in map(str, range(PROCESSES)):
        assert [e.body["number"] for e in entries if e.body["writer"] == writer] == [*range(EACH)]


def test_appends_through_a_faulty_network(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writer never meets a conflict; four writers lose nothing and write nothing twice."""
    monkeypatch.setattr("cluster.storage.s3.READ_TIMEOUT_S", DELAY_S / 2)
    monkeypatch.setattr("cluster.storage.retry.FIRST_WAIT_S", 0.005)
    monkeypatch.setattr("cluster.storage.retry.LONGEST_WAIT_S", 0.05)
    with FaultProxy(s3_endpoint, EVERYTHING).serving() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        alone = Track(S3Store(s3_bucket), "team", "alone")
        after = None
        for number in range(40):
            after = alone.append("x", {"number": number}, after=after)
        assert [entry.body["number"] for entry in alone.entries()] == [*range(40)]
        together = Track(S3Store(s3_bucket), "team", "together")

        def write(writer: int) -> None:
            for number in range(5):
                while True:
                    try:
                        together.append("x", {"what": [writer, number]}, after=together.head())
                        break
                    except ConflictError:
                        continue

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written = [entry.body["what"] for entry in together.entries()]
        assert sorted(written) == [[writer, number] for writer in range(4) for number in range(5)]


@pytest.mark.s3
def test_a_killed_server_keeps_what_it_acknowledged(ceph: Ceph, ceph_bucket: str) -> None:
    """SIGKILL to all of it while four processes publish; they wait, go on, and nothing is lost or double."""
    uri = f"s3://{ceph_bucket}"
    processes = publishers(uri, 4, 15)
    first = [process.stdout.readline() for process in processes if process.stdout]
    assert all(first)
    ceph.script("kill", ceph.folder)
    ceph.script("restart", ceph.root, ceph.folder)
    lines = first + [line for process in processes for line in process.stdout or ()]
    assert [process.wait() for process in processes] == [0] * 4
    entries = Track(open_store(uri), "team", "stream").entries()
    assert [entry.seq for entry in entries] == [*range(1, 61)]
    assert sorted(entry.body["prefix"] for entry in entries) == sorted(line.strip() for line in lines)


def policy(bucket: str, team: str, user: str) -> list[dict[str, Any]]:
    """What a publisher of a team may do, in plain statements."""
    who, arn = {"AWS": [f"arn:aws:iam:::user/{user}"]}, f"arn:aws:s3:::{bucket}"
    mine = [f"{arn}/t/{team}/*", f"{arn}/.orthoplex-probe"]
    allowed = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    listing = {"StringLike": {"s3:prefix": [f"t/{team}/*", ".orthoplex-probe"]}}
    return [
        {"Effect": "Allow", "Principal": who, "Action": allowed, "Resource": mine},
        {"Effect": "Allow", "Principal": who, "Action": "s3:ListBucket", "Resource": arn, "Condition": listing},
    ]


@pytest.mark.s3
def test_teams_are_kept_apart_by_the_server(ceph: Ceph, ceph_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher of team a writes and lists its own prefix, not b's, and deletes nothing, its log included."""
    name = uuid.uuid4().hex[:8]
    ceph.script("user", ceph.root, ceph.folder, name, f"AK{name}", f"SK{name}")
    document = {"Version": "2012-10-17", "Statement": policy(ceph_bucket, "a", name)}
    ceph.client().put_bucket_policy(Bucket=ceph_bucket, Policy=json.dumps(document))
    theirs = S3Store(ceph_bucket)
    other = Track(theirs, "b", "stream").append("open", {}, after=None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AK{name}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"SK{name}")
    store = S3Store(ceph_bucket)
    probe(store)
    mine = Track(store, "a", "stream")
    entry = mine.append("open", {}, after=None)
    assert mine.entries() == [entry]
    log_b = "t/b/stream/log/0999999999.json"
    refused: list[Callable[[], Any]] = [
        lambda: store.get(log_b),
        lambda: store.put("t/b/stream/v/x", b""),
        lambda: store.put_if_absent("t/b/stream/log/0999999998.json", b"{}"),
        lambda: store.list("t/b/"),
        lambda: store.list_folders("t/b"),
        lambda: store.list(""),
        lambda: store.delete(log_b),
        lambda: store.delete("t/a/stream/log/0999999999.json"),
    ]
    for call in refused:
        with pytest.raises(StoreError, match="access denied"):
            call()
    assert Track(theirs, "b", "stream").head() == other and mine.head() == entry


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
