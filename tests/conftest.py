"""An S3 server for tests: moto's, one request at a time, because its conditional writes check and then set."""

import os
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

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


@pytest.fixture(scope="session", autouse=True)
def state_folder() -> Iterator[None]:
    """What this machine sees of logs and pulls stays in a folder of the session, in child processes too."""
    with tempfile.TemporaryDirectory(prefix="orthoplex-state-") as folder:
        os.environ["ORTHOPLEX_STATE"] = folder
        yield
        del os.environ["ORTHOPLEX_STATE"]


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
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")).close()
    return bucket
