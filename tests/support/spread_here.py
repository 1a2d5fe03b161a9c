"""In the place of a version: it answers at once, in whichever process has loaded it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Opened:
    """Loads one, and writes its process into a file. It fails at one text."""

    loads: str
    fails_at: str | None = None

    def __call__(self) -> Any:
        with Path(self.loads).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return self

    def classify(self, texts: Sequence[str], **_: Any) -> list[Any]:
        """A label for each text."""
        if self.fails_at in texts:
            raise RuntimeError("out of memory")
        return [SimpleNamespace(label="x", probability=1.0, scores={"x": 1.0}) for _ in texts]
