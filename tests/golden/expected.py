"""Writes what the golden store gives now into the files expected*.json. Read the difference.

Usage, from the repository's root: PYTHONPATH=. python -m tests.golden.expected
"""

import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.golden.golden import DOCUMENTS, GOLDEN, TEXTS, bodies, copy_to, deltas, logged


def main() -> None:
    """Writes the files."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ORTHOPLEX_STATE"] = f"{folder}/state"
        recorded = copy_to(Path(folder))
        documents = {name: read(recorded) for name, read in DOCUMENTS.items()}
        write("expected.json", {"pyarrow": version("pyarrow"), **documents})
        write("expected_text.json", {name: read(recorded).splitlines() for name, read in TEXTS.items()})
        write("expected_deltas.json", deltas(recorded))
    write("expected_bodies.json", bodies(logged()))


def write(name: str, content: Any) -> None:
    """One JSON file, keys as they come: their order is what the commands print."""
    (GOLDEN / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
