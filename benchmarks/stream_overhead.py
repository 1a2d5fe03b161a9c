"""Where the time of a stream goes: training, evaluation, and everything else, one worker group against one a task.

    PYTHONPATH=. python benchmarks/stream_overhead.py [--config configs/quickstart.yaml] [--results out.json]

Runs the configuration twice, in fresh stores: as the product does, and with a `TorchTrainer` of its own for every task.
Everything is read from the run's log. Overhead of a task: seconds from the commit before to its own, less training
and evaluation. The start, listed by cause: until the first task's training begins.
"""

import argparse
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Results, Row, attempt, markdown, provenance
from cluster.resources import ClusterConfig
from cluster.storage import LocalStore
from orchestrator.config.run import load_config
from orchestrator.console.run import RunReporter
from orchestrator.log.entry import Entry
from orchestrator.run.controller import Controller
from orchestrator.track.track import Track

GROUPS = {"one group": "the product", "a group a task": "a TorchTrainer for every task"}
LIMIT_S = 3600.0


class GroupATask(Controller):
    """A controller whose tasks all ask for another worker group."""

    def _cluster(self, index: int) -> ClusterConfig:
        return super()._cluster(index).model_copy(update={"max_failures": 100 + index})


def run(path: Path, overrides: list[str], kind: str, store: Path) -> None:
    """Runs the configuration in this process."""
    config = load_config(path, [*overrides, f"store={store}"])
    with RunReporter(len(config.tasks)) as reporter:
        (Controller if kind == "one group" else GroupATask)(config, reporter).run()


def measure(path: Path, overrides: list[str], kind: str) -> Row:
    """One run in a process of its own, and what its log says."""
    with tempfile.TemporaryDirectory(prefix="orthoplex-overhead-") as folder:
        store = Path(folder) / "store"
        words = [sys.executable, __file__, "--run", kind, "--store", str(store), "--config", str(path)]
        words += [word for each in overrides for word in ("--set", each)]
        subprocess.run(words, check=True, stdout=sys.stderr)
        config = load_config(path, overrides)
        return figures(Track(LocalStore(store), config.team, config.name).entries())


def figures(entries: list[Entry]) -> Row:
    """Seconds by cause, from the log of a finished run."""
    at = {entry.op: seconds(entry) for entry in reversed(entries)}  # the first of each kind
    commits = [entry for entry in entries if entry.op == "commit"]
    first = next(entry for entry in entries if entry.op == "workers")
    causes = {"read the data": at["open"] - at["start"]}
    causes["start Ray"] = seconds(first) - at["open"] - sum(first.body["seconds"].values())
    causes |= {WORDS[key]: value for key, value in first.body["seconds"].items()}
    tasks = []
    for before, commit in zip([first, *commits], commits, strict=False):
        cost = commit.body["cost"]
        whole, used = seconds(commit) - seconds(before), cost["train_s"] + cost["evaluate_s"]
        tasks.append({"task": commit.body["task"], "train and evaluate": used, "overhead": whole - used})
    return {"start": causes, "tasks": tasks, "whole": at["finish"] - at["start"]}


WORDS = {"workers": "place and import", "load": "load the base", "tokenise": "tokenise"}


def seconds(entry: Entry) -> float:
    """When it was written, Unix time."""
    return datetime.fromisoformat(entry.time).timestamp()


def table(results: Results) -> str:
    """The start by cause, then overhead a task, then sums; a column a kind of run."""
    rows = {kind: row for kind, row in results.rows.items() if "error" not in row}
    lines: list[list[str]] = []
    for cause in next(iter(rows.values()))["start"] if rows else []:
        lines.append([f"start: {cause}", *(f"{row['start'][cause]:.1f}" for row in rows.values())])
    for index, task in enumerate(next(iter(rows.values()))["tasks"] if rows else []):
        lines.append([f"overhead of {task['task']}", *(f"{r['tasks'][index]['overhead']:.2f}" for r in rows.values())])
    for name, key in (("a task after the first, mean", "overhead"), ("training and evaluation", "train and evaluate")):
        lines.append([name, *(f"{mean(row, key):.2f}" for row in rows.values())])
    lines.append(["overhead after the first, share", *(f"{share(row):.1%}" for row in rows.values())])
    lines.append(["whole run", *(f"{row['whole']:.0f}" for row in rows.values())])
    lines += [[kind, row["error"]] for kind, row in results.rows.items() if "error" in row]
    return results.header() + "\n\nseconds\n\n" + markdown(["", *rows], lines)


def mean(row: Row, key: str) -> float:
    """Mean over the tasks after the first of the overhead; the sum over those of training and evaluation."""
    values: list[float] = [task[key] for task in row["tasks"][1:]]
    return sum(values) / (len(values) if key == "overhead" else 1)


def share(row: Row) -> float:
    """Overhead of the tasks after the first, as a share of their training and evaluation."""
    later: list[dict[str, Any]] = row["tasks"][1:]
    return sum(task["overhead"] for task in later) / sum(task["train and evaluate"] for task in later)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--results", type=Path, help="a JSON file to go on with and to add to")
    parser.add_argument("--run", choices=GROUPS, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.config, options.overrides, options.run, options.store)
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    subject = f"stream overhead, {options.config} {' '.join(options.overrides)}".strip()
    results = Results.open(subject, options.results, provenance(device))
    for kind in GROUPS:
        if not results.done(kind, retry=True):
            results.put(
                kind, attempt(lambda kind=kind: measure(options.config, options.overrides, kind), device, LIMIT_S)
            )
    print(table(results))


if __name__ == "__main__":
    main()
