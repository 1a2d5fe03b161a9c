"""Keys, limits, and what is counted."""

import asyncio
from typing import Any

import pytest

from orchestrator.serve.app import Service
from orchestrator.serve.counters import Counters
from orchestrator.serve.gate import Gate, allowed, bounded
from orchestrator.serve.problems import Problem
from orchestrator.serve.settings import ServeSettings, digest_of
from tests.support.served import Run, client, service_of

KEY, OTHER = "first-key-of-sixteen", "second-key-of-sixteen"
DIGESTS = (digest_of(KEY), digest_of(OTHER))


@pytest.mark.parametrize(
    ("header", "lets_in"),
    [
        (f"Bearer {KEY}", True), (f"bearer {OTHER} ", True), ("", False), (KEY, False), (f"Basic {KEY}", False),
        (f"Bearer {KEY}x", False), ("Bearer ", False), (f"Bearer {DIGESTS[0]}", False), ("Bearer \xff", False),
    ],
)  # fmt: skip
def test_keys(header: str, lets_in: bool) -> None:
    assert allowed(header.encode("latin-1"), DIGESTS) is lets_in
    assert allowed(header.encode("latin-1"), ())


def test_every_path_but_health_asks_for_a_key(labels_run: Run) -> None:
    service = service_of(labels_run[1], "team/run@live", digests=DIGESTS)
    asking = client(service)
    for path in ("/v1/models", "/metrics", "/nowhere", "/v1/classify"):
        refused = asking.get(path)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "invalid_api_key"
    assert asking.get("/health").status_code == 200
    asked = asking.post("/v1/classify", json={"input": "x"}, headers={"authorization": f"Bearer {KEY}"})
    assert asked.status_code == 200
    service.close()


def test_a_body_beyond_the_limit(labels_run: Run) -> None:
    """Whether it says its length or comes in pieces."""
    service = service_of(labels_run[1], "team/run@live", max_body_bytes=100)
    for content in (b"x" * 101, iter([b"x" * 60, b"x" * 60])):
        answer = client(service).post("/v1/classify", content=content)
        assert answer.status_code == 413 and "100 bytes" in answer.json()["error"]["message"]
    answer = client(service).post("/v1/classify", content=b"x", headers={"content-length": "9" * 5000})
    assert answer.status_code == 413
    assert client(service).post("/v1/classify", json={"input": "x"}).status_code == 200
    service.close()


def test_a_body_in_pieces_is_counted() -> None:
    sent = iter(
        [{"type": "http.request", "body": b"x" * 5, "more_body": True}, {"type": "http.request", "body": b"y" * 6}]
    )

    async def receive() -> Any:
        return next(sent)

    async def read() -> None:
        counted = bounded(receive, 10)
        await counted()
        with pytest.raises(Problem, match="10 bytes"):
            await counted()

    asyncio.run(read())


def test_beyond_the_limit_of_requests_at_work() -> None:
    """The third of three that come together is refused, and let in once one has ended, even by an error."""
    go = asyncio.Event()
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        if scope["query_string"]:
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    counters = Counters()
    gate = Gate(app, ServeSettings(adapters=("r@v1",), max_concurrent=2), (), counters)

    def ask(query: bytes = b"") -> Any:
        scope = {"type": "http", "path": "/v1/classify", "headers": [], "query_string": query, "method": "POST"}
        return asyncio.ensure_future(gate(scope, receive, send))

    async def all_of_them() -> None:
        first = [ask(), ask(b"fail")]
        await asyncio.sleep(0)
        await ask()
        assert statuses == [429] and b"orthoplex_requests_at_work 2.0" in counters.text()
        go.set()
        await asyncio.gather(*first, return_exceptions=True)
        await ask()
        assert statuses == [429, 200, 200] and gate.at_work == 0

    asyncio.run(all_of_them())
    assert b'orthoplex_requests_total{path="/v1/classify",status="429"} 1.0' in counters.text()
    assert b'orthoplex_requests_total{path="/v1/classify",status="500"} 1.0' in counters.text()


def test_paths_are_counted_by_few_names(labels: Service) -> None:
    """Whoever asks for many paths does not make as many series."""
    for number in range(5):
        client(labels).get(f"/nowhere/{number}")
    assert "nowhere" not in client(labels).get("/metrics").text
