"""The application as people deploy it on a Ray cluster of their own; what runs it is in tests/e2e/test_serve.py."""

from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.serve import deployment
from orchestrator.serve.deployment import Replica, application, listen_on_loopback
from orchestrator.serve.settings import KEYS
from tests.support.served import Run, client

KEY = "a-key-of-sixteen-characters"


def test_it_is_built_of_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys by their digests, and as much at once as the replica itself refuses."""
    monkeypatch.setenv(KEYS, KEY)
    made = application({"adapters": ["team/run@production"], "max_concurrent": 10, "device": "cuda", "cpus": 3})
    bound: Any = made._bound_deployment
    assert bound.name == "Adapters" and bound.max_ongoing_requests == 36
    assert bound.ray_actor_options == {"num_cpus": 3, "num_gpus": 1}
    assert KEY not in str(bound.init_args) and len(bound.init_args[1]) == 1


def test_arguments_of_the_command_line_are_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `serve run IMPORT_PATH KEY=VALUE` gives them."""
    monkeypatch.delenv(KEYS, raising=False)
    made: Any = application({"adapters": "a/b@live, a/c@v1", "open": "true", "max_concurrent": "5", "refresh_s": "0.5"})
    settings = made._bound_deployment.init_args[0]
    assert settings["adapters"] == ["a/b@live", "a/c@v1"] and settings["max_concurrent"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapters": ["a/b@c"]}, "ORTHOPLEX_API_KEYS is not set"),
        ({}, "adapters: Field required"),
        ({"adapters": " , "}, "adapters: "),
        ({"adapters": ["a/b@c"], "opne": True}, "opne: Extra inputs"),
        ({"adapters": ["a/b@c"], "max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_cannot_be_built(arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS, raising=False)
    with pytest.raises(ConfigError, match=message):
        application(arguments)


def test_a_replica_listens_on_loopback_if_all_of_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import replica

    for alone, expected in ((False, "[::]:0"), (True, "127.0.0.1:0")):
        monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda _server, address: address)
        monkeypatch.setattr(deployment, "on_this_machine", lambda alone=alone: alone)
        listen_on_loopback()
        assert replica.add_port_to_grpc_server(None, "[::]:0") == expected


def test_a_replica(labels_run: Run) -> None:
    replica = Replica({"adapters": ["team/run@live"], "store": str(labels_run[1] / "store")}, [])
    assert replica.standing() == {"team/run@live": ("team/run@v1", None)}
    assert replica.__serve_build_asgi_app__() is replica.service.app
    assert client(replica.service).post("/v1/classify", json={"input": "red"}).status_code == 200
    replica.check_health()
    replica.service.close()
    with pytest.raises(RuntimeError, match="has ended"):
        replica.check_health()
