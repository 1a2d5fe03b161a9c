"""What `orthoplex serve` refuses before anything starts, and what it says while it runs."""

import os
import signal
import socket
import sys
from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.serve.launch import Address, Standing, changes, check, on_what_there_is, prepare, reason, until_told
from orchestrator.serve.settings import KEYS, ServeSettings
from tests.support.served import Run

LOCAL = Address("127.0.0.1", 0)
KEYED = {KEYS: "a-key-of-sixteen-characters"}


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:8000", True), ("127.8.8.8:1", True), ("localhost:80", True), ("[::1]:8000", True),
        ("0.0.0.0:8000", False), ("10.0.0.1:8000", False), ("[::]:8000", False), ("example.org:8000", False),
    ],
)  # fmt: skip
def test_addresses(text: str, loopback: bool) -> None:
    assert Address.parse(text).loopback is loopback and str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "8000", ":8000", "host", "host:", "host:0", "host:65536", "host:-1", "host:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        Address.parse(text)


def settings_of(folder: Any, *adapters: str) -> ServeSettings:
    return ServeSettings(adapters=adapters or ("team/run@live",), store=str(folder / "store"))


def test_what_can_be_served(labels_run: Run) -> None:
    assert check(settings_of(labels_run[1]), LOCAL, {}) == ["team/run@v1"]
    assert check(settings_of(labels_run[1]), Address("0.0.0.0", 0), KEYED) == ["team/run@v1"]


def test_other_interfaces_ask_for_keys(labels_run: Run) -> None:
    with pytest.raises(ConfigError, match=r"others than this machine reach it, and \$ORTHOPLEX_API_KEYS is not set"):
        check(settings_of(labels_run[1]), Address("0.0.0.0", 0), {KEYS: ""})


def test_a_cluster_is_not_served_on(labels_run: Run) -> None:
    with pytest.raises(ConfigError, match="RAY_ADDRESS: is set"):
        check(settings_of(labels_run[1]), LOCAL, {"RAY_ADDRESS": "auto"})


def test_an_address_that_is_taken(labels_run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen there"):
            check(settings_of(labels_run[1]), Address("127.0.0.1", taken.getsockname()[1]), {})


def test_without_ray_serve_it_says_what_to_install(labels_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(ConfigError, match=r"pip install 'orthoplex\[serve\]' -c constraints.txt"):
        check(settings_of(labels_run[1]), LOCAL, {})


def test_adapters_that_there_are_not(labels_run: Run) -> None:
    with pytest.raises(ConfigError, match="no such alias"):
        check(settings_of(labels_run[1], "team/run@nowhere"), LOCAL, {})


def test_what_is_said_of_changes() -> None:
    one: Standing = {"a": ("r@v1", None)}
    assert changes({}, one) == ["a → r@v1"] and changes(one, one) == []
    behind: Standing = {"a": ("r@v1", "gone")}
    assert changes(one, behind) == ["a: gone; r@v1 goes on answering"] and changes(behind, behind) == []
    assert changes(behind, {"a": ("r@v2", None)}) == ["a → r@v2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(number: int) -> None:
    said: list[str] = []
    looks = iter([{"a": ("v1", None)}, {"a": ("v2", None)}])

    def look() -> Standing:
        found = next(looks)
        if found["a"][0] == "v2":
            os.kill(os.getpid(), number)
        return found

    before = signal.getsignal(number)
    until_told(look, said.append, 0.01)
    assert said == ["a → v1", "a → v2"] and signal.getsignal(number) is before


def test_a_replica_that_is_away_is_told_of_once() -> None:
    said: list[str] = []
    looks = iter([{"a": ("v1", None)}, None, None, {"a": ("v1", None)}, None, "end"])

    def look() -> Standing:
        found: Any = next(looks)
        if found == "end":
            os.kill(os.getpid(), signal.SIGTERM)
            return {"a": ("v2", None)}
        if found is None:
            raise TimeoutError
        return dict(found)

    until_told(look, said.append, 0.01)
    away = "the replica does not answer (TimeoutError); Ray Serve starts it again if it has ended"
    assert said == ["a → v1", away, away, "a → v2"]


def test_the_priority_of_workers_is_the_users_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    found: list[dict[str, str]] = [{}, {"RAY_worker_niceness": "5"}]
    for each in found:
        prepare(each)
    assert [each["RAY_worker_niceness"] for each in found] == ["0", "5"]
    prepare(mine := {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "7"})
    assert [each["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] for each in (found[0], mine)] == ["60", "7"]
    monkeypatch.setitem(sys.modules, "ray", sys)
    prepare(there := {})
    assert there == {}


@pytest.mark.parametrize(
    ("device", "gpus", "expected"), [(None, 0, "cpu"), (None, 2, "cuda"), ("cpu", 1, "cpu"), ("cuda:0", 0, "cuda:0")]
)
def test_a_gpu_is_used_if_there_is_one(device: str | None, gpus: int, expected: str) -> None:
    given = ServeSettings(adapters=("r@v1",), device=device)
    assert on_what_there_is(given, {"CPU": 2, **({"GPU": gpus} if gpus else {})}).device == expected


def test_the_reason_of_a_failed_start() -> None:
    report = "Deploying failed\n  File x\ncluster.errors.ConfigError: model.name: is not there\nmore\n"
    assert reason(report) == "model.name: is not there"
    assert reason("a\nRuntimeError: b\nc") == "RuntimeError: b"
    assert reason("odd") == "odd" and reason("") == "no reason given"
