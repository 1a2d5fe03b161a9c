"""Where the time of a sweep goes: training, evaluation, and everything else.

    PYTHONPATH=. python benchmarks/sweep_overhead.py [--config configs/sweeps/quickstart.yaml] [--results out.json]

Runs the sweep in a fresh store, eight trials unless said otherwise, each to its end (nothing is stopped early). Slots
are the trials that run at once. Overhead = 1 − Σ(training + evaluation) / (slots · time of the whole command); it is
listed by cause: the start (until the first task of a slot begins to train), the end (from the last commit on), slots
that stand idle since no trial is left for them, and what lies between the tasks. All of it is read from the logs.

`--t5-large FOLDER` first makes a model of that shape there, of random weights, for where no hub is reached:

    … --config configs/sweeps/budget.yaml --t5-large /tmp/t5 --set base=configs/cl_benchmark/t5_large_order1.yaml \
        --set run.model.name=/tmp/t5 --set run.data_dir=PATH
"""

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import torch

from benchmarks.harness import Results, Row, attempt, markdown, provenance
from cluster.storage import LocalStore
from orchestrator.log.entry import Entry
from orchestrator.sweeps.config import load_sweep
from orchestrator.sweeps.sweep_state import sweep_log
from orchestrator.track.track import Track

WHOLE = ("stopping.asha=null", "stopping.dominated=false", "stopping.max_forgetting=null")
LIMIT_S = 3600.0


def measure(path: Path, overrides: list[str], trials: int) -> Row:
    """One sweep in a process of its own, and what its logs say."""
    with tempfile.TemporaryDirectory(prefix="orthoplex-overhead-") as folder:
        store = Path(folder) / "store"
        asked = [*overrides, *WHOLE, f"budget.trials={trials}", f"run.store={store}"]
        words = [word for each in asked for word in ("--set", each)]
        began = time.time()
        command = [sys.executable, "-m", "orchestrator", "sweep", str(path), "--output", f"{folder}/out", *words]
        subprocess.run(command, check=True, stdout=sys.stderr)
        ended = time.time()
        config = load_sweep(path, asked)
        entries = sweep_log(LocalStore(store), config.run.team, config.name).entries()
        outcomes = [entry.body for entry in entries if entry.op == "outcome"]
        runs = [Track(LocalStore(store), config.run.team, config.trial_name(o["number"])).entries() for o in outcomes]
        slots = next(entry.body["slots"] for entry in entries if entry.op == "pool")
        return figures(began, ended, slots, runs)


def figures(began: float, ended: float, slots: int, runs: list[list[Entry]]) -> Row:
    """Seconds by cause, summed over the slots. `runs` are the logs of the trials' runs; tasks that one took over from
    another were trained there."""
    commits = [entry for run in runs for entry in run if entry.op == "commit" and "forked_from" not in entry.body]
    training = sum(entry.body["cost"]["train_s"] for entry in commits)
    evaluation = sum(entry.body["cost"]["evaluate_s"] for entry in commits)
    starts = sorted(seconds(entry) - used(entry) for entry in commits)[:slots]
    ends = sorted(max(seconds(entry) for entry in run if entry.op == "commit") for run in runs)[-slots:]
    start, end = sum(starts) - slots * began, slots * (ended - max(ends))
    idle = slots * max(ends) - sum(ends)
    whole = slots * (ended - began)
    return {
        "slots": slots, "trials": len(runs), "wall": ended - began, "training": training, "evaluation": evaluation,
        "start": start, "end": end, "idle": idle,
        "between": whole - training - evaluation - start - end - idle, "overhead": 1 - (training + evaluation) / whole,
    }  # fmt: skip


def used(commit: Entry) -> float:
    """What a task took to train and to evaluate."""
    return float(commit.body["cost"]["train_s"] + commit.body["cost"]["evaluate_s"])


def seconds(entry: Entry) -> float:
    """When it was written, Unix time."""
    return datetime.fromisoformat(entry.time).timestamp()


def make_t5_large(folder: Path, words: str) -> None:
    """Saves a T5-large of random weights in bfloat16, with the tokenizer of `words`, where it is not there."""
    from transformers import T5Config, T5ForConditionalGeneration

    from tests.support.tiny_models import tokenizer as with_end

    if (folder / "config.json").exists():
        return
    tokenizer = with_end(words)
    shape = {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16}
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = T5Config(**shape, vocab_size=32128, pad_token_id=pad, eos_token_id=end, decoder_start_token_id=pad)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = T5ForConditionalGeneration(config)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


CAUSES = {
    "training": "training", "evaluation": "evaluation", "start": "until the first task trains",
    "between": "between tasks", "idle": "slots without a trial at the end", "end": "after the last commit",
}  # fmt: skip


def table(results: Results) -> str:
    """A column a sweep; seconds of a slot, and shares of all."""
    rows = {key: row for key, row in results.rows.items() if "error" not in row}
    lines = [["trials, slots", *(f"{row['trials']}, {row['slots']}" for row in rows.values())]]
    lines.append(["wall, s", *(f"{row['wall']:.0f}" for row in rows.values())])
    for cause, words in CAUSES.items():
        whole = {key: row["slots"] * row["wall"] for key, row in rows.items()}
        lines.append([words, *(f"{row[cause] / whole[key]:.1%}" for key, row in rows.items())])
    lines.append(["**neither training nor evaluating**", *(f"**{row['overhead']:.1%}**" for row in rows.values())])
    lines += [[key, row["error"]] for key, row in results.rows.items() if "error" in row]
    return results.header() + "\n\n" + markdown(["share of slots · wall", *rows], lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/sweeps/quickstart.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--results", type=Path, help="a JSON file to go on with and to add to")
    parser.add_argument("--t5-large", type=Path, metavar="FOLDER")
    parser.add_argument("--tokenizer", default="minilm", metavar="MODEL", help="whose tokenizer --t5-large takes")
    options = parser.parse_args()
    if options.t5_large:
        make_t5_large(options.t5_large, options.tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = Results.open("sweep overhead", options.results, provenance(device))
    key = " ".join([options.config.stem, *options.overrides])
    if not results.done(key, retry=True):
        row = attempt(lambda: measure(options.config, options.overrides, options.trials), device, LIMIT_S)
        results.put(key, row)
    print(table(results))


if __name__ == "__main__":
    main()
