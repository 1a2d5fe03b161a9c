"""Services in this process, without Ray."""

from pathlib import Path

from starlette.testclient import TestClient

from cluster.storage import open_store
from orchestrator.serve.app import Service, in_process
from orchestrator.serve.settings import ServeSettings
from orchestrator.track.state import RunState
from orchestrator.track.track import Track

Run = tuple[RunState, Path]


def track_of(folder: Path) -> Track:
    return Track(open_store(str(folder / "store")), "team", "run")


def service_of(folder: Path, *adapters: str, digests: tuple[str, ...] = (), **settings: object) -> Service:
    """A service that looks at aliases only when a test says so."""
    given = {"adapters": adapters, "store": str(folder / "store"), "refresh_s": 3600, **settings}
    return in_process(ServeSettings.model_validate(given), digests, say=lambda _: None)


def client(service: Service) -> TestClient:
    return TestClient(service.app, raise_server_exceptions=False)
