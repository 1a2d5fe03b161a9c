"""A move is posted to a real server: what it gets, how it knows that it is ours, and what happens if it is at fault."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.followed import webhook
from orchestrator.followed.webhook import NotToldError, check_url, moved, send
from orchestrator.registry.aliases import promote, rollback
from orchestrator.registry.references import Version


class Receiver(BaseHTTPRequestHandler):
    got: list[tuple[dict[str, str], bytes]]
    answers: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).got.append((dict(self.headers), body))
        code = self.answers.pop(0) if self.answers else 204
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Receiver]]]:
    monkeypatch.setattr(webhook, "WAIT_S", 0.01)
    kind = type("Mine", (Receiver,), {"got": [], "answers": []})
    made = HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}/hook", kind
    made.shutdown()
    made.server_close()


def test_what_a_receiver_gets(
    version: Version, server: tuple[str, type[Receiver]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, kind = server
    monkeypatch.setenv("ORTHOPLEX_WEBHOOK_SECRET", "s3cret")
    promote(version.track, 1, "production", why="first")
    entry = promote(version.track, 2, "production", why="better")
    send(url, moved(version.track, entry))
    ((headers, body),) = kind.got
    told = json.loads(body)
    assert (told["event"], told["run"], told["alias"], told["before"], told["version"]) == (
        "promote", "default/stream", "production", 1, 2,
    )  # fmt: skip
    assert told["why"] == "better" and told["manifest_sha256"] == version.commit.manifest_sha256
    assert (told["entry"], told["entry_sha256"], told["actor"]) == (entry.seq, entry.sha256, entry.actor)
    wanted = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert headers["X-Orthoplex-Signature"] == f"sha256={wanted}" and headers["X-Orthoplex-Event"] == "promote"
    back = moved(version.track, rollback(version.track, "production", why="no"))
    assert (back["event"], back["before"], back["version"]) == ("rollback", 2, 1)


def test_a_server_that_is_at_fault_is_asked_again_with_the_same_bytes(server: tuple[str, type[Receiver]]) -> None:
    url, kind = server
    kind.answers[:] = [503, 429]
    send(url, {"event": "promote", "entry": 7})
    assert len(kind.got) == 3 and len({body for _, body in kind.got}) == 1
    assert "X-Orthoplex-Signature" not in kind.got[0][0]


@pytest.mark.parametrize(("answers", "asked"), [([500] * 9, 3), ([404], 1), ([302], 1)])
def test_what_is_not_taken_is_said(server: tuple[str, type[Receiver]], answers: list[int], asked: int) -> None:
    """A redirect is not followed: what is signed for one place does not go to another."""
    url, kind = server
    kind.answers[:] = answers
    with pytest.raises(NotToldError, match=rf"127.0.0.1 answered {answers[0]}; the log has the move \(entry 7\)"):
        send(url, {"event": "promote", "entry": 7})
    assert len(kind.got) == asked


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WAIT_S", 0.01)
    with pytest.raises(NotToldError, match="refused"):
        send("http://127.0.0.1:9/x", {"event": "promote", "entry": 7})


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http://", "https://me:pw@host/x"])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--webhook") as found:
        check_url(url)
    assert "pw" not in str(found.value)
