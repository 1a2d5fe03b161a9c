"""On Ray Serve: clients are answered by one version each while an alias moves, and streams come in pieces."""

import asyncio
import json
import urllib.request

import pytest

from benchmarks.serving import Load, expected_of, under_load
from cluster.local import free_port
from orchestrator.registry.aliases import promote
from orchestrator.serve.launch import Address, serving
from orchestrator.serve.settings import KEYS, ServeSettings
from tests.support.served import Run, track_of
from tests.support.sockets import exposed, listening

KEY = "a-key-of-sixteen-characters"
PROBE = "new 3 red word end"


def test_an_alias_moves_under_load(local_ray: None, texts_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    track, store = track_of(texts_run[1]), str(texts_run[1] / "store")
    monkeypatch.setenv(KEYS, KEY)
    promote(track, 1, "benchmark")
    settings = ServeSettings(adapters=("team/run@benchmark", "team/run@v3"), store=store, refresh_s=0.2)
    address, expected = Address("127.0.0.1", free_port(8000)), expected_of(track, store, PROBE, "a")
    load = Load(f"http://{address}/v1/classify", "team/run@benchmark", "a", PROBE, expected)
    with serving(settings, address) as look:
        moved = asyncio.run(under_load(load, track, seconds=6, clients=8, moves=2))
        assert look()["team/run@v3"] == ("team/run@v3", None)
        pieces = streamed(address)
        assert exposed(listening()) == {}
    assert load.failures == load.mixed == []
    assert {named for _, named in load.answers} == {"team/run@v1", "team/run@v2"} and len(load.answers) > 20
    assert len(moved) == 4 and max(load.shown_after_s(moved)) < 5
    assert len([piece for piece in pieces if piece]) > 1


def streamed(address: Address) -> list[str]:
    """The pieces of an answer, as they come through Ray Serve's proxy."""
    asked = {"model": "team/run@v3", "prompt": "new is ", "task": "qa", "stream": True, "max_tokens": 6}
    request = urllib.request.Request(f"http://{address}/v1/completions", json.dumps(asked).encode())
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=30)
    request.add_header("Authorization", f"Bearer {KEY}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["x-orthoplex-version"] == "team/run@v3"
        lines = [line.decode().strip() for line in answer if line.strip()]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines]
