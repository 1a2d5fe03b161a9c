"""The rule of every fuzzer: whatever is put in is accepted rightly, or refused by an error of our own.

Such an error has at most `MOST_CHARACTERS` characters, none of which moves a terminal's cursor, and comes within
`MOST_S` seconds of this process's CPU. All else is a fault: a traceback, a long message, a long wait, and an
AssertionError, by which a case says that something was accepted wrongly. Cases are drawn by a seed, so a fault can be
had again.
"""

import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import time_limit
from cluster.errors import OrthoplexError

MOST_CHARACTERS, MOST_S = 2_000, 2.0
HANGS_S = 30.0  # by the clock, since who waits uses no CPU


@dataclass(frozen=True)
class Case:
    """`work` puts something in, which `says` describes. It raises AssertionError if that was accepted wrongly."""

    says: str
    work: Callable[[], object]


Fuzzer = Callable[[random.Random, Path], Iterator[Case]]  # cases without end, or until all are done, in a folder


@dataclass
class Report:
    """How many cases of a fuzzer were tried, and how many of them were refused; one text per fault."""

    cases: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


class Hung(BaseException):
    """A case took longer than `HANGS_S`."""


def fuzz(fuzzer: Fuzzer, seconds: float, seed: int, say: Callable[[str], None] = lambda _: None) -> Report:
    """Tries cases for that long from the first one on, or until there are no more. `say` is told each before it is
    tried."""
    report, end = Report(), None
    with tempfile.TemporaryDirectory(prefix="orthoplex-fuzz-") as folder:
        for case in fuzzer(random.Random(seed), Path(folder)):
            end = end or time.monotonic() + seconds
            if time.monotonic() > end:
                break
            say(case.says)
            try_one(case, report)
    return report


def try_one(case: Case, report: Report) -> None:
    """Tries one case."""
    report.cases += 1
    before, error = time.process_time(), None
    try:
        with time_limit(HANGS_S, Hung):
            case.work()
    except OrthoplexError as refusal:
        report.refused += 1
        error = refusal
    except (Exception, Hung, SystemExit) as fault:
        report.faults.append(f"{case.says}\n{''.join(traceback.format_exception(fault)[-8:])}")
        return
    took = time.process_time() - before
    if took > MOST_S:
        report.faults.append(f"{case.says}\ntook {took:.1f} s of CPU")
    if error and (wrong := misshapen(str(error))):
        report.faults.append(f"{case.says}\nsays {wrong}: {str(error)[:300]!r}")


def misshapen(message: str) -> str | None:
    """The fault of a message; None if it has none."""
    if len(message) > MOST_CHARACTERS:
        return f"{len(message)} characters"
    moving = sorted({each for each in message if not each.isprintable()} - {"\n"})
    return f"control characters ({''.join(moving)!r})" if moving else None
