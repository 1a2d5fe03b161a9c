"""A real MLflow server: what a run tells it, and its model registry. `make test-mlflow` fetches and starts one."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.registry.references import Version
from tests.orchestrator.followed.test_mlflow_registry import mirror_all
from tests.support.places import PARAMETERS, RUN, Server, follow

COMMAND = "ORTHOPLEX_MLFLOW_COMMAND"  # path of the command `mlflow` of an environment with the whole of it
STARTED_S = 120.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMMAND not in os.environ, reason="needs a real MLflow server: make test-mlflow"),
]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of its own, with its database and artifacts in a new folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [os.environ[COMMAND], *words], cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=environment,
        )  # fmt: skip
        try:
            wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTED_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


def test_a_run_is_all_there_and_goes_on(uri: str) -> None:
    place = Server(uri)
    follow(place, RUN, [1, 2, 4], None)  # killed
    sink = place.sink()
    sink.start(RUN)
    sink.log({"guard_broken/max_forgetting": 1.0, "aa": 0.75}, step=6)
    sink.end("stopped", {})
    (found,) = place.read().values()
    assert found.points["loss/a_task"] == [(step, 1 / step) for step in (1, 2, 4)]
    assert found.points["guard_broken/max_forgetting"] == [(6, 1.0)] and (6, 0.75) in found.points["aa"]
    assert found.parameters == {key: str(value) for key, value in PARAMETERS.items()} and found.status == "stopped"


def test_the_model_registry(uri: str, version: Version) -> None:
    mirror_all(version, uri)
