"""Log entries as tests need them: any operation with any body, and bodies that are whole."""

import json
from dataclasses import dataclass, field
from typing import Any

from orchestrator.log.entry import Entry

PROCESS = {"host": "here", "pid": 1, "space": "", "started": -1}
START: dict[str, Any] = {"versions": {}, "cluster": {}, "driver": PROCESS, "lease_s": 0.2}
COMMIT: dict[str, Any] = {"version": 1, "task": "a", "prefix": "x", "manifest_sha256": "m" * 64, "stored_bytes": 1}


@dataclass(frozen=True)
class Raw:
    """An operation with this body, which may be malformed or unknown."""

    op: str
    content: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return self.content


def entry(op: str, body: dict[str, Any], seq: int = 7) -> Entry:
    return Entry(seq, "", "", "me@here", "2026-01-01T00:00:00.000+00:00", op, body, f"{seq}-{json.dumps(body)}")
