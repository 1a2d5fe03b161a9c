"""Puts malformed things in wherever something is read: `make fuzz`.

Usage: python -m tests.fuzz [--seconds N] [--seed S] [--only NAME] [--verbose]. N is for each fuzzer. Prints a line per
fuzzer, and its faults; ends with 1 if there is one.
"""

import argparse
import faulthandler
import os
import sys
import tempfile

from tests.fuzz.harness import fuzz
from tests.fuzz.known import FUZZERS

MOST_SHOWN = 10


def main() -> int:
    """Runs the fuzzers that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each fuzzer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=sorted(FUZZERS), help="a fuzzer; may be given again")
    parser.add_argument("--verbose", action="store_true", help="say each case before it is tried")
    asked = parser.parse_args()
    faulthandler.enable()
    failed = False
    with tempfile.TemporaryDirectory(prefix="orthoplex-state-") as state:
        os.environ["ORTHOPLEX_STATE"] = state
        for name in asked.only or FUZZERS:
            say = (lambda case: print(case, file=sys.stderr, flush=True)) if asked.verbose else (lambda _: None)
            report = fuzz(FUZZERS[name], asked.seconds, asked.seed, say)
            print(f"{name}: {report.cases} cases, {report.refused} refused, {len(report.faults)} faults", flush=True)
            for fault in report.faults[:MOST_SHOWN]:
                print(f"  {fault}".replace("\n", "\n  "))
            failed = failed or bool(report.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
