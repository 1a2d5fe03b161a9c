"""A moved alias, told to a URL: `adapters promote` and `rollback`, with `--webhook`.

The body is JSON, `{"event": "promote", "run": "team/run", "alias": …, "version": …, …}`. A receiver that has the secret
in $ORTHOPLEX_WEBHOOK_SECRET can tell that it is ours: `X-Orthoplex-Signature: sha256=` and the HMAC-SHA256 of the body.
`entry_sha256` is the same in every attempt, so that one which is told twice can be counted once.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cluster.errors import ConfigError, OrthoplexError
from orchestrator.log.entry import Entry, JsonLike, canonical
from orchestrator.log.event import decided, parse
from orchestrator.track.aside import Move, Promote, Rollback
from orchestrator.track.moves import moves
from orchestrator.track.state import replay
from orchestrator.track.track import Track

SECRET = "ORTHOPLEX_WEBHOOK_SECRET"
TRIES, WAIT_S, TIMEOUT_S = 3, 1.0, 10.0


class NotToldError(OrthoplexError):
    """Somewhere else was not told of what stands in the log."""


class Stay(HTTPRedirectHandler):
    """Follows no redirect: it would lead what was signed for one place to another."""

    def redirect_request(self, *_: object) -> None:
        """None: the redirect is the answer."""


def check_url(url: str) -> None:
    """Raises ConfigError unless it is one of http or https, without a user."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("--webhook: begin it with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ConfigError(f"--webhook: holds a user or a password; take it out, and set {SECRET} to sign what is sent")


def moved(track: Track, entry: Entry) -> dict[str, JsonLike]:
    """What is told of a move, read from the log up to its entry."""
    kind: type[Move] = Promote if entry.op == Promote.op else Rollback
    move, entries = parse(entry, kind), track.catch_up()
    before = [each.version for each in moves(entries) if each.name == move.alias and each.seq < entry.seq]
    commit = replay(track.team, track.name, entries).version(move.version)
    return {
        "event": entry.op, "store": track.store.uri.partition("?")[0], "run": track.label, "team": track.team,
        "name": track.name, "alias": move.alias, "version": move.version, "before": before[-1] if before else None,
        "reference": f"{track.label}@v{move.version}", "task": commit.task, "manifest_sha256": commit.manifest_sha256,
        "prefix": commit.prefix, "why": move.why, "actor": entry.actor, "time": entry.time, "entry": entry.seq,
        "entry_sha256": entry.sha256, "decisions": [each.decision.model_dump() for each in decided([entry])],
    }  # fmt: skip


def send(url: str, told: Mapping[str, JsonLike]) -> None:
    """Posts it, up to three times if the server is away or at fault. Raises NotToldError if it was not taken."""
    body = canonical(told)
    headers = {"Content-Type": "application/json", "X-Orthoplex-Event": str(told.get("event"))}
    if secret := os.environ.get(SECRET):
        headers["X-Orthoplex-Signature"] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    host, opener, fault = urlsplit(url).hostname, build_opener(Stay), ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT_S * 2 ** (attempt - 1))
        try:
            with opener.open(Request(url, body, headers, method="POST"), timeout=TIMEOUT_S):
                return
        except HTTPError as error:
            fault = f"answered {error.code}"
            error.close()
            if error.code < 500 and error.code != 429:
                break
        except (URLError, OSError, HTTPException, ValueError) as error:
            fault = str(getattr(error, "reason", error))
    raise NotToldError(f"--webhook: {host} {fault}; the log has the move (entry {told.get('entry')}): tell it by hand")
