"""The file of finished cells: one JSON object per line, keys sorted, appended one at a time.

A line is written by one call and flushed to the disk; a line that was cut is passed over, and the next one begins on a
line of its own. Of lines with the same key the last one counts, so a cell that failed may be tried again.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Lines = dict[str, dict[str, Any]]


def read(path: Path) -> Lines:
    """The lines of a file by their `key`; none if there is no file."""
    found: Lines = {}
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "key" in line:
            found[line["key"]] = line
    return found


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Adds a line, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        os.write(file.fileno(), data)
        os.fsync(file.fileno())


def merge(path: Path, others: Iterable[Path]) -> int:
    """Adds the lines of other files whose keys are not there, or have failed there; returns how many."""
    there, added = read(path), 0
    for other in others:
        for key, line in read(other).items():
            if key not in there or ("error" in there[key] and "error" not in line):
                append(path, line)
                there[key] = line
                added += 1
    return added
