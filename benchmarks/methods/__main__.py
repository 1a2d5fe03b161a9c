"""The command; see the package."""

import argparse
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import benchmarks.methods
from benchmarks.methods import results
from benchmarks.methods.plan import PLAN, RESULTS, Asked, Line, Plan, estimate_s, missing, read_plan
from cluster.errors import ConfigError, OrthoplexError

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
WORK = Path(".orthoplex/methods")


def main() -> None:
    """See the package."""
    options = parsed()
    try:
        plan, asked = chosen(options)
        if options.merge:
            print(f"{results.merge(options.results, options.merge)} lines added to {options.results}")
        elif options.plan:
            print(listing(plan, results.read(options.results), asked, options))
        elif options.table:
            print_tables(plan, results.read(options.results))
        elif options.write:
            write(plan, results.read(options.results), options.write)
        else:
            run(plan, asked, options)
    except OrthoplexError as error:
        raise SystemExit(f"benchmarks.methods: {error}") from None


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods", description=benchmarks.methods.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="list what is missing, with the time it is reckoned to take")
    what.add_argument("--table", action="store_true", help="print the tables")
    what.add_argument(
        "--write", nargs="?", const=PAGE, type=Path, metavar="PAGE", help="make docs/results.md and its pictures"
    )
    what.add_argument("--merge", nargs="+", type=Path, metavar="FILE", help="add the lines of other results files")
    parser.add_argument(
        "--config", type=Path, default=PLAN, help="methods, settings and streams (benchmarks/methods.yaml)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of finished cells")
    parser.add_argument("--only", type=words, metavar="METHOD,…", help="these methods alone")
    parser.add_argument("--streams", type=words, metavar="STREAM,…", help="these streams, or groups of them, alone")
    parser.add_argument("--seeds", type=words, metavar="SEED,…", help="these seeds alone")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="begin no cell that would not end by then; leave what has not ended"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="cells at once (a GPU: as many as cores; a CPU: 1)")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    parser.add_argument("--retry", action="store_true", help="measure cells again that failed")
    parser.add_argument("--data-dir", type=Path, help="a CL_Benchmark checkout ($ORTHOPLEX_DATA_DIR)")
    parser.add_argument("--model", metavar="FOLDER", help="where MiniLM lies, if its package is not installed")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder of stores and logs; unfinished cells go on from it"
    )
    parser.add_argument("--keep", action="store_true", help="keep the stores of finished cells")
    return parser.parse_args()


def words(text: str) -> list[str]:
    """A list with commas."""
    return [word for word in text.split(",") if word]


def chosen(options: argparse.Namespace) -> tuple[Plan, Asked]:
    """The plan, and the part of it that is asked for. Raises ConfigError if a name is not there."""
    plan = read_plan(options.config)
    groups = plan.groups()
    streams = options.streams and [name for each in options.streams for name in groups.get(each, [each])]
    for option, names, there in (("--only", options.only, plan.methods), ("--streams", streams, plan.streams)):
        if absent := [name for name in names or () if name not in there]:
            raise ConfigError(f"{option}: {absent[0]!r} is not in {options.config}; there are {', '.join(there)}")
    try:
        seeds = options.seeds and [int(seed) for seed in options.seeds]
    except ValueError:
        raise ConfigError(f"--seeds: {','.join(options.seeds)!r}: expected numbers, as in 0,1") from None
    return plan, Asked(options.only, streams, seeds)


def listing(plan: Plan, lines: dict[str, Any], asked: Asked, options: argparse.Namespace) -> str:
    """What is missing, by stream and method, and how long it is reckoned to take."""
    found, devices = missing(plan, lines, asked, retry=options.retry), gpus_used(options)
    jobs, gpu = jobs_of(options, devices), bool(devices)
    counts = Counter((cell.stream, cell.method) for cell in found.ready)
    each = {stream: estimate_s(plan, stream, lines, gpu) for stream in plan.streams}
    rows = [f"{stream}: {method}: {count} × {each[stream]:.0f} s" for (stream, method), count in counts.items()]
    rows += [f"{stream}: {method}, seed {seed}: waits for tuning" for method, stream, seed in found.waiting]
    rows += [f"{cell.stream}: {cell.method}, seed {cell.seed}: cannot be run: {fault}" for cell, fault in found.faulty]
    later = [stream for _, stream, _ in found.waiting]
    total = sum(each[cell.stream] for cell in found.ready) + sum(each[stream] for stream in later)
    rows.append(
        f"{len(found.ready)} cells to measure, {len(later)} after tuning, {len(found.faulty)} that cannot be run: "
        f"about {total / 60 / jobs:.0f} minutes with {jobs} at once"
    )
    return "\n".join(rows)


def print_tables(plan: Plan, lines: dict[str, Line]) -> None:
    """All tables."""
    from benchmarks.methods import tables

    for group in plan.groups():
        print(f"\n{group}\n\n{tables.table(plan, group, lines)}")
    print(f"\n{tables.LEGEND}\n\nTuning\n\n{tables.choices(plan, lines)}")
    print(f"\nMissing\n\n{tables.absent(plan, lines) or 'Nothing.'}")


def write(plan: Plan, lines: dict[str, Line], path: Path) -> None:
    """Makes the page."""
    from benchmarks.methods.report import report

    path.write_text(report(plan, lines, path), "utf-8")
    print(f"wrote {path}")


def run(plan: Plan, asked: Asked, options: argparse.Namespace) -> None:
    """Measures what is missing."""
    from benchmarks.methods.fill import Filling
    from benchmarks.methods.slots import Options, Slots

    devices = gpus_used(options)
    jobs = jobs_of(options, devices)
    started = Options(
        work=options.work.resolve(), data_dir=options.data_dir and options.data_dir.resolve(), model=options.model,
        keep=options.keep, beside=jobs, threads=max(1, (os.cpu_count() or 1) // jobs) if not devices else 1,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the processes are then ended
    filling = Filling(
        plan=plan, path=options.results, slots=Slots(jobs, devices, started), work=started.work, asked=asked, say=say,
        minutes=options.minutes, retry=options.retry, gpu=bool(devices),
    )  # fmt: skip
    say(f"{jobs} at once on {f'{len(devices)} GPUs' if devices else 'the CPU'}; logs in {started.work}")
    count = filling.run()
    say(f"{count} cells ended")


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def gpus_used(options: argparse.Namespace) -> list[str]:
    """The GPUs that cells are measured on."""
    from benchmarks.methods.slots import gpus

    return [] if options.cpu else gpus()


def jobs_of(options: argparse.Namespace, devices: list[str]) -> int:
    """How many cells are measured at once."""
    return options.jobs or ((os.cpu_count() or 1) if devices else 1)


if __name__ == "__main__":
    main()
