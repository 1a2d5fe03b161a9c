"""A run of many small tasks twice, undisturbed and with kills and outages, and whether both come to the same.

Usage: python -m tests.soak [--tasks N] [--kills K] [--outages O] [--seed S] [--folder FOLDER]

Prints a line per task, then figures as JSON; ends with 1 if something is not as promised. Both runs go on where they
were if the command is given again with the same folder.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.storage.retry import PATIENCE
from tests.soak.faults import Fault, draw_faults
from tests.soak.figures import judged
from tests.soak.outcome import Outcome, outcome
from tests.soak.stream import FolderStore, write_stream
from tests.soak.supervisor import Record, Supervised
from tests.support.tiny_run import command

PATIENCE_S = "3"  # some outages are longer, and end a driver


def soak(folder: Path, kind: str, tasks: int, faults: list[Fault], seed: int) -> tuple[Record, Outcome]:
    """One of the two runs, in a folder of its own."""
    place = folder / kind
    place.mkdir(parents=True, exist_ok=True)
    store = FolderStore(place / "store")
    words = command("run", str(write_stream(place, tasks, str(store.path))))

    def say(line: str) -> None:
        print(f"{kind}: {line}", flush=True)

    run = Supervised(words, place, say, away=store.away, environment={PATIENCE: PATIENCE_S}, seed=seed)
    return run.run(faults), outcome(str(store.path))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--outages", type=int, help="a quarter of the kills by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="a temporary one by default")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="orthoplex-soak-"))
    print(f"soak: {folder}", flush=True)
    outages = asked.kills // 4 if asked.outages is None else asked.outages
    faults = draw_faults(asked.tasks, asked.kills, outages, asked.seed)
    began = time.monotonic()
    undisturbed = soak(folder, "undisturbed", asked.tasks, [], asked.seed)
    disturbed = soak(folder, "disturbed", asked.tasks, faults, asked.seed)
    found: dict[str, Any] = judged(undisturbed, disturbed)
    found["minutes"] = round((time.monotonic() - began) / 60, 1)
    (folder / "soak.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
