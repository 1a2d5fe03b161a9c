"""An HTTP proxy in front of an S3 server that does to requests and answers what networks and busy servers do."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# What happens to a request, with its share: the others pass.
QUARTER_DROPPED = {"drop": 0.25}  # it takes effect, the connection closes without an answer
EVERYTHING = {
    "drop": 0.15,
    "cut": 0.1,  # it takes effect, half of the answer comes
    "close": 0.05,  # it never arrives
    "409": 0.04,
    "500": 0.04,
    "503": 0.04,  # it does not take effect, the server says so
    "500 after": 0.05,  # it takes effect, the server says 500
    "delay": 0.04,  # it takes effect after the client has given up on it
}
DELAY_S = 1.0


class FaultProxy:
    """Draws one fault a request, by seed; `counts` says which were made. `away` closes every connection unread."""

    def __init__(self, upstream: str, shares: Mapping[str, float], seed: int = 0) -> None:
        self.upstream, self.shares = urlsplit(upstream).netloc, dict(shares)
        self.random, self.lock, self.counts = random.Random(seed), threading.Lock(), Counter[str]()
        self.away = False

    def draw(self) -> str:
        """The next request's fault; "" where it passes."""
        with self.lock:
            names, weights = [*self.shares, ""], [*self.shares.values(), 1 - sum(self.shares.values())]
            (fault,) = ["away"] if self.away else self.random.choices(names, weights)
            self.counts[fault] += 1
            return fault

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serves on a free port: its URL."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """One client connection; its requests are passed on with their headers as they are."""

    protocol_version, proxy = "HTTP/1.1", FaultProxy("", {})

    def handle_any(self) -> None:
        fault = self.proxy.draw()
        self.close_connection = True
        if fault in ("close", "away"):
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault.isdecimal():
            self.answer(int(fault), [], f"<Error><Code>Injected{fault}</Code></Error>".encode())
            return
        if fault == "delay":
            time.sleep(DELAY_S)
        status, headers, data = self.forward(body)
        if fault == "drop":
            return
        if fault == "500 after":
            status, headers, data = 500, [], b"<Error><Code>InternalError</Code></Error>"
        with suppress(OSError):  # a client that has given up
            self.answer(status, headers, data, half=fault == "cut")
        self.close_connection = fault != ""

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer."""
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, half: bool = False) -> None:
        """Sends it, or half of its body; half of an answer without a body ends within the headers."""
        skipped = {"content-length", "transfer-encoding", "connection", "date", "server"}
        length = str(len(data)) if self.command != "HEAD" else dict(headers).get("Content-Length", "0")
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        if not (half and not data):
            self.end_headers()
        else:
            self.flush_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if half else data)

    def log_message(self, *_: Any) -> None: ...
