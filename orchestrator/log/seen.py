"""This machine's memory of each log, so that a store cannot be taken back to an earlier state unnoticed.

There is one small file per log, in $ORTHOPLEX_STATE or ~/.cache/orthoplex/seen. It holds the highest seq read or
written, and its digest.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import StoreError
from cluster.storage.disk import STATE_VARIABLE, refusal, state_folder
from orchestrator.log.entry import digest

_kept = ContextVar("kept", default=True)


@contextmanager
def unremembered() -> Iterator[None]:
    """Logs that are read within neither ask this machine's memory nor are kept in it: those of an archive are complete
    in themselves, and are no store."""
    token = _kept.set(False)
    try:
        yield
    finally:
        _kept.reset(token)


@dataclass(frozen=True)
class Seen:
    """The memory of one log, of the store at `uri` below the key `root`."""

    uri: str
    root: str

    @property
    def path(self) -> Path:
        """The file."""
        name = digest(f"{self.uri} {self.root}".encode())[:32]
        return state_folder() / "seen" / f"{name}.json"

    def recall(self) -> tuple[int, str]:
        """(seq, sha256) of the newest entry seen; (0, "") if none was."""
        if not _kept.get():
            return 0, ""
        try:
            content: dict[str, int | str] = json.loads(self.path.read_bytes())
            return int(content["seq"]), str(content["sha256"])
        except (FileNotFoundError, NotADirectoryError):
            return 0, ""
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError(
                f"{self.path}: cannot be read; it records the last entry seen of {self.uri}; remove it to start anew"
            ) from None

    def remember(self, seq: int, sha256: str) -> None:
        """Keeps the newer of this entry and the one kept before. If nothing can be written, the memory is not kept;
        that is an error only if $ORTHOPLEX_STATE is set."""
        if not _kept.get():
            return
        try:
            with self._locked():
                if self.recall()[0] < seq:
                    content = {"store": self.uri, "log": self.root, "seq": seq, "sha256": sha256}
                    temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
                    temporary.write_text(json.dumps(content))
                    temporary.replace(self.path)
        except OSError as error:
            if os.environ.get(STATE_VARIABLE):
                refused = f"{STATE_VARIABLE}: cannot write {self.path}"
                raise refusal(refused, error, "name another folder there") from None

    def forget(self) -> None:
        """Drops the memory of this log."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
