"""Options of every object written to a bucket: encryption with a key, and retention. They are part of the URI."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

from cluster.errors import ConfigError

SSE, LOCKS = ("AES256", "aws:kms", "aws:kms:dsse"), ("GOVERNANCE", "COMPLIANCE")


@dataclass(frozen=True)
class S3Options:
    """`?sse=aws:kms&kms_key=ID&lock_mode=GOVERNANCE&lock_days=30`, each of them optional; none is a secret.

    They stand in the URI so that every node that opens the store writes alike; environment variables would have to be
    right on each node. Retention needs a bucket made with object lock, which is versioned. It ends `lock_days` after
    the write. Until then `adapters gc` cannot remove an object for good.
    """

    sse: str = ""
    kms_key: str = ""
    lock_mode: str = ""
    lock_days: int = 0

    @staticmethod
    def parse(query: str) -> "S3Options":
        """The options in what follows `?` in a URI. Raises ConfigError, which quotes no unknown option's value."""
        try:
            given = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
        except ValueError:
            raise ConfigError("store: what follows '?' must be option=value, joined by '&'") from None
        known = [field.name for field in fields(S3Options)]
        values: dict[str, Any] = dict(given)
        if unknown := [name for name in values if name not in known]:
            raise ConfigError(f"store: {unknown[0]!r} is no option of an S3 store; there are {', '.join(known)}")
        if len(values) < len(given):
            raise ConfigError("store: an option stands twice after '?'; give it once")
        days = values.get("lock_days", "0")
        if not (days.isdecimal() and len(days) < 6):
            raise ConfigError(f"store: lock_days={days!r}: give a whole number of days")
        return S3Options(**{**values, "lock_days": int(days)})

    def __post_init__(self) -> None:
        if self.sse and self.sse not in SSE:
            raise ConfigError(f"store: sse={self.sse!r}: use one of {', '.join(SSE)}")
        if self.kms_key and not self.sse.startswith("aws:kms"):
            raise ConfigError("store: kms_key needs sse=aws:kms")
        if self.lock_mode and self.lock_mode not in LOCKS:
            raise ConfigError(f"store: lock_mode={self.lock_mode!r}: use one of {', '.join(LOCKS)}")
        if bool(self.lock_mode) != bool(self.lock_days):
            raise ConfigError("store: lock_mode and lock_days (1 or more) go together")

    def __str__(self) -> str:
        """The query that parses to these options, with its `?`; empty if there are none."""
        given = {field.name: value for field in fields(self) if (value := getattr(self, field.name))}
        return f"?{urlencode(given, safe=':/')}" if given else ""

    def arguments(self) -> dict[str, Any]:
        """Arguments for PutObject and CreateMultipartUpload. Retention is counted from now."""
        made: dict[str, Any] = {}
        if self.sse:
            made["ServerSideEncryption"] = self.sse
        if self.kms_key:
            made["SSEKMSKeyId"] = self.kms_key
        if self.lock_mode:
            made["ObjectLockMode"] = self.lock_mode
            made["ObjectLockRetainUntilDate"] = datetime.now(UTC) + timedelta(days=self.lock_days)
        return made
