"""Who runs which test, and S3 servers: moto's, one request at a time, since its conditional writes check and then set;
and Ceph's.

With two test processes (`-n 2 --no-loadscope-reorder`) a file stays whole in one of them, so that what a module shares
is made once. The files that start Ray are two groups of about the same length. Each process begins with one of them:
runs on Ray mostly wait. What is left goes to whichever process is free.

Ceph is there where $ORTHOPLEX_CEPH_ROOT names the folder that `tests/ceph/ceph.sh fetch` filled; see `make test-s3`.
"""

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.resources import ClusterConfig
from cluster.session import ray_session
from cluster.temporary import temporary
from tests.support.disks import Disk, small_disk
from tests.support.sample import ALL_CASES, SEED

S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKORTHOPLEXTEST",
    "AWS_SECRET_ACCESS_KEY": "orthoplex-test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


TOGETHER = {  # files, and folders, of one group: what they share for the whole session is made once
    "here": (
        "e2e/test_run.py",
        "e2e/test_sweep.py",
        "orchestrator/serve/test_on_ray.py",
        "orchestrator/sinks/test_prometheus.py",
        "trainers/workers/test_pool.py",
        "trainers/workers/test_ranks.py",
    ),
    "nodes": ("e2e/",),
    "pair": ("trainers/training/test_checkpoint.py", "trainers/training/test_engine.py"),
    "ranks": (
        "trainers/methods/lowrank/test_two_ranks.py", "trainers/methods/weights/test_ranks.py",
        "trainers/training/test_mixing.py",
    ),
    "exports": ("trainers/methods/test_export.py", "trainers/methods/oa/test_export.py"),
}  # fmt: skip
RAY = ("here", "nodes")  # a Ray of a command's or the process's own; a cluster that the tests of `nodes` share
GROUP_OF = {
    "local_ray": "here",
    "nodes": "nodes",
    "pair": "pair",
    "references": "pair",
    "two_ranks": "ranks",
    "cases": "exports",
}  # by fixture
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: each process has a core
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # child processes compile the packages once, and not once each


gc.set_threshold(20_000, 10, 10)  # a fifth of the tests' time was spent in walks through all imported modules


def pytest_configure() -> None:
    """Takes Ctrl-C, also if this process was started in the background, where it is ignored: so would be those that
    tests start and send it to."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leaves what was imported out of the garbage collector's walks."""
    gc.collect()
    gc.freeze()


def group_of(nodeid: str) -> str:
    """The group of a test's file; most files are one of their own."""
    path = nodeid.partition("::")[0].removeprefix("tests/")
    return next((name for name, paths in TOGETHER.items() if path.startswith(paths)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow by its fixtures. What is on Ray comes first, since it takes longest."""
    for item in items:
        names = {GROUP_OF[name] for name in getattr(item, "fixturenames", ()) if name in GROUP_OF}
        if wrong := (names & {*RAY}) - {group_of(item.nodeid)}:
            raise pytest.UsageError(f"{item.nodeid} uses what group {wrong} shares; put its file there, in TOGETHER")
        if item.path.parent.name == "e2e" or names & {*RAY, "pair"}:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: group_of(item.nodeid) not in RAY)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each group of files one of the processes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def pytest_report_header() -> str:
    """Says which cases are drawn."""
    return "cases: all of them" if ALL_CASES else f"cases: a sample drawn with seed {SEED}; `make test-all` runs all"


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What this machine sees of logs and pulls stays in a folder of the session, in child processes too; so do
    temporary files, which another test process might take for what a run has left behind."""
    tmp_path_factory.getbasetemp()  # is where it would be without this
    with temporary("state") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORTHOPLEX_STATE", folder)
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 256 KiB."""
    with small_disk(tmp_path / "disk", 256) as found:
        yield found


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for all tests of a process that need one, with two CPUs or more, and nobody else's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_session(ClusterConfig(num_workers=2)):
            yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of the server."""
    moto = pytest.importorskip("moto.server")
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    app, lock = moto.DomainDispatcherApplication(moto.create_backend_app), threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            return app(environ, start_response)

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh bucket; the environment points the AWS SDK, here and in child processes, at the server."""
    point_sdk(monkeypatch, s3_endpoint)
    bucket = f"test-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")).close()
    return bucket


def point_sdk(monkeypatch: pytest.MonkeyPatch, endpoint: str, **more: str) -> None:
    """Points the AWS SDK, here and in child processes, at a server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint, **more}.items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Ceph:
    """A running single-node Ceph, in `folder`: its endpoints, the certificate of the second one, its admin's keys."""

    root: str
    folder: Path
    http: str
    https: str
    certificate: Path
    admin = ("AKtest", "SKtest")

    def script(self, *words: object) -> None:
        """Runs tests/ceph/ceph.sh; it may raise CalledProcessError."""
        subprocess.run([str(CEPH_SCRIPT), *map(str, words)], check=True, timeout=120)

    def client(self, keys: tuple[str, str] = admin) -> Any:
        """A boto3 client with these keys."""
        import boto3
        from botocore.config import Config

        config = Config(retries={"total_max_attempts": 8, "mode": "standard"}, read_timeout=120)
        given = {"aws_access_key_id": keys[0], "aws_secret_access_key": keys[1], "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.http, config=config, **given)


CEPH_SCRIPT = Path(__file__).parent / "ceph" / "ceph.sh"


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """Ceph on free ports."""
    if not (root := os.environ.get("ORTHOPLEX_CEPH_ROOT")):
        pytest.skip("no Ceph here; `make test-s3` fetches one and sets ORTHOPLEX_CEPH_ROOT")
    folder = Path(tempfile.mkdtemp(prefix="orthoplex-ceph-", dir="/tmp"))  # short: the names of sockets are bounded
    port = 20_000 + os.getpid() % 100 * 100
    names = {"-keyout": folder / "key.pem", "-out": folder / "authority.pem", "-subj": "/CN=127.0.0.1"}
    words = [str(word) for pair in names.items() for word in pair]
    subject = ["-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-newkey", "rsa:2048", "-nodes", "-x509"]
    subprocess.run(["openssl", "req", *subject, *words], check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "key.pem").read_text() + (folder / "authority.pem").read_text())
    server = Ceph(
        root, folder / "s", f"http://127.0.0.1:{port}", f"https://127.0.0.1:{port + 1}", folder / "authority.pem"
    )
    try:
        server.script("start", root, server.folder, port, folder / "both.pem")
        yield server
    finally:
        server.script("stop", server.folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ceph_bucket(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> str:
    """As s3_bucket, of Ceph."""
    point_sdk(monkeypatch, ceph.http, AWS_ACCESS_KEY_ID=ceph.admin[0], AWS_SECRET_ACCESS_KEY=ceph.admin[1])
    bucket = f"test-{uuid.uuid4().hex}"
    ceph.client().create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture
def ceph_tls_bucket(ceph: Ceph, ceph_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """As ceph_bucket, over HTTPS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", ceph.https)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ceph.certificate))
    return ceph_bucket
