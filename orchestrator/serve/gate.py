"""What stands before every request: API keys, the number of requests at work, the size of a body; and counting."""

import hmac
import time
from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.serve.counters import Counters
from orchestrator.serve.problems import Problem, no_key, too_large, too_many
from orchestrator.serve.settings import ServeSettings, digest_of

WORK = ("/v1/classify", "/v1/completions", "/v1/chat/completions")
OPEN = ("/health",)  # what asks for no key: it tells nothing of what is served


class Gate:
    """Lets requests to `app` that have one of the keys with these sha256 `digests`, if there are any."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, digests: Sequence[str], counters: Counters) -> None:
        self.app, self.settings, self.digests, self.counters = app, settings, digests, counters
        self.at_work = 0
        counters.at_work.set_function(lambda: self.at_work)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # of an application below a prefix
        started, status = time.monotonic(), 500

        async def told(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._let_in(path, scope, receive, told)
        finally:
            named = path if path in WORK or path == "/v1/models" else "other"
            self.counters.requests.labels(named, str(status)).inc()
            self.counters.seconds.labels(named).observe(time.monotonic() - started)

    async def _let_in(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            if path not in OPEN and not allowed(headers.get(b"authorization", b""), self.digests):
                raise no_key()
            if path in WORK:
                self._check_room(headers)
        except Problem as problem:
            await JSONResponse(problem.body(), problem.status, problem.headers)(scope, receive, send)
            return
        if path not in WORK:
            await self.app(scope, receive, send)
            return
        self.at_work += 1
        try:
            await self.app(scope, bounded(receive, self.settings.max_body_bytes), send)
        finally:
            self.at_work -= 1

    def _check_room(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises Problem if too many requests are at work, or the body says that it is too large."""
        if self.at_work >= self.settings.max_concurrent:
            raise too_many(self.settings.max_concurrent)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > self.settings.max_body_bytes):
            raise too_large(self.settings.max_body_bytes)


def allowed(authorization: bytes, digests: Sequence[str]) -> bool:
    """Whether a header has a known key. All are compared, in the same time whichever fits."""
    if not digests:
        return True
    scheme, _, key = authorization.decode("latin-1").partition(" ")
    found = digest_of(key.strip())
    fits = [hmac.compare_digest(found, each) for each in digests]
    return scheme.lower() == "bearer" and any(fits)


def bounded(receive: Receive, most: int) -> Receive:
    """What is received, of which a body may have `most` bytes. Raises Problem beyond that."""
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise too_large(most)
        return message

    return counted
