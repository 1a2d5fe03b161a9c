"""Records a run that was interrupted in its second task, with its checkpoint, by the code of another commit. A minute.

Usage, from the repository's root, with a checkout of that commit (`git worktree add CHECKOUT 3a729f0`):

    PYTHONPATH=. python -m tests.golden.record_interrupted CHECKOUT

It replaces tests/golden/interrupted; `tests/e2e/test_golden_run.py` goes on with that run. Its inputs are `run.yaml`
and `data/` of this folder.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from tests.golden.record import GOLDEN, HERE, ended, running, write_inputs


def main(checkout: Path) -> None:
    """Runs, interrupts and keeps the store."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    os.environ |= {"ORTHOPLEX_STATE": str(HERE / "state"), "LOGNAME": "golden", "PYTHONPATH": str(checkout.resolve())}
    os.environ |= {"PYTHONUNBUFFERED": "1", "COLUMNS": "120", "ORTHOPLEX_STORE": str(HERE / "store")}
    os.chdir(HERE)
    write_inputs(HERE)
    with running("run", "run.yaml") as (process, until):
        until(r"\[2/2\] weather: train 4/")
        ended(process, signal.SIGINT, 130)
    shutil.rmtree(GOLDEN / "interrupted", ignore_errors=True)
    shutil.copytree("store", GOLDEN / "interrupted", ignore=shutil.ignore_patterns(".tmp"))
    shutil.rmtree(HERE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
