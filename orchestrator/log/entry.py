"""A log entry: canonical JSON with a sequence number, the digest of the entry before, its writer and its time."""

import getpass
import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

JsonLike = None | bool | int | float | str | Sequence["JsonLike"] | Mapping[str, "JsonLike"]  # what JSON can be made of
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
SHA256 = re.compile(r"[0-9a-f]{64}")
OPERATION = re.compile(r"[a-z][a-z0-9_.-]{0,63}")  # also of later versions
FIELDS = {"seq": int, "prev_sha256": str, "nonce": str, "actor": str, "time": str, "op": str}
SIGNATURE = "signature"
UNSCORED: dict[str, JsonValue] = {"correct": None, "rows": 0}  # in a commit, the score of a split that was not scored


@dataclass(frozen=True)
class Entry:
    """One log entry. `time` is ISO 8601 UTC, `sha256` the digest of its bytes, `prev_sha256` that of entry seq − 1's.

    `body` holds everything that is not a field. `signature`, if there is one, covers the whole entry but itself.
    `unsigned` is the digest that it was made over.
    """

    seq: int
    prev_sha256: str
    nonce: str
    actor: str
    time: str
    op: str
    body: dict[str, JsonValue]
    sha256: str
    signature: Mapping[str, str] | None = None
    unsigned: str = ""

    def __hash__(self) -> int:
        return hash((self.seq, self.sha256))


def parse_entry(data: bytes, *, known_canonical: bool = False) -> Entry:
    """The entry in canonical JSON bytes. Raises ValueError if they are not canonical or no entry.

    `known_canonical` skips the comparison with the canonical form, for bytes whose digest is vouched for. The scores of
    all splits that were not scored are one object, UNSCORED: the commits of a long stream have very many.
    """
    content = json.loads(data, object_hook=_shared)
    if not isinstance(content, dict) or not (known_canonical or canonical(content) == data):
        raise ValueError("not canonical JSON")
    if wrong := [name for name, kind in FIELDS.items() if type(content.get(name)) is not kind]:
        raise ValueError(f"no valid {', '.join(wrong)}")
    if not OPERATION.fullmatch(content["op"]):
        raise ValueError("no valid op")
    if datetime.fromisoformat(content["time"]).tzinfo is None:
        raise ValueError("no valid time")
    sha256 = unsigned = digest(data)
    if (signature := content.pop(SIGNATURE, None)) is not None:
        if not (isinstance(signature, dict) and all(type(value) is str for value in signature.values())):
            raise ValueError("no valid signature")
        unsigned = digest(canonical(content))
    fields = {name: content.pop(name) for name in FIELDS}
    return Entry(**fields, body=content, sha256=sha256, signature=signature, unsigned=unsigned)


def _shared(found: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """UNSCORED if it is the same JSON, else what was found."""
    return UNSCORED if found == UNSCORED and type(found["rows"]) is int else found


def canonical(content: Mapping[str, JsonLike]) -> bytes:
    """JSON as UTF-8 bytes. Keys are strings, sorted; there are no spaces. Raises ValueError for NaN and infinity."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # keys become strings before they are sorted
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes JSON's own escape for it


def digest(data: bytes) -> str:
    """The sha256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def actor() -> str:
    """The writer: user@host, or uid<number>@host if the user has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
