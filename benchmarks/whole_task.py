"""How fast whole tasks of real text are trained on MiniLM, and how well: `transformers.Trainer` over LoRA, and ours.

    PYTHONPATH=. python benchmarks/whole_task.py --data-dir PATH --results out.json      # on a GPU, bf16 weights
    OMP_WAIT_POLICY=PASSIVE python benchmarks/whole_task.py --data-dir PATH --cpu        # float32, fewer rows
    PYTHONPATH=. python benchmarks/whole_task.py --data-dir PATH --ways trainer,ours-graphs --tasks TC/agnews,NLI/MNLI

PATH is a CL_Benchmark checkout. Both sides have the same rows, epochs, batch size, AdamW, learning rate 1e-3 with 20
steps of warm-up and linear decay, clipping at 1 and 128 tokens; LoRA has r = 16 on query and value, ours at most 8
dimensions on the attention and feed-forward output projections (as configs/cl_benchmark/minilm_order1.yaml, output
side). The ways are described in `task_rows.py`. Every row is written at once; one that stands there is not measured
again. Needs this project with DeepSpeed, peft and datasets; where the offline copy of MiniLM is absent, --model FOLDER.
"""

import argparse
import math
import statistics
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Results, attempt, markdown, provenance
from benchmarks.task_rows import WAYS, Setting, process_group
from trainers.config import TrainConfig
from trainers.data.prompts import Prompt
from trainers.data.tasks import ClBenchmarkTask, DataConfig, load_task
from trainers.messages import TaskRows

TASKS = ("TC/agnews", "SC/amazon", "NLI/MNLI")
BASELINE = "trainer"
GPU_ONLY = ("trainer-autocast", "ours-graphs", "ours-graphs-compiled")


def read(dataset: str, data_dir: Path, rows: int, test_rows: int) -> TaskRows:
    """A cleaned task: training rows and the first test rows."""
    task = ClBenchmarkTask(name=dataset.replace("/", ".").lower(), source="cl_benchmark", dataset=dataset)
    data = load_task(task, DataConfig(max_train_rows=rows, max_test_rows=test_rows), data_dir, seed=0)
    tables = {"train": data.train, "test": data.test}
    return TaskRows(data.name, data.labels, {k: (t["text"][:], t["label"][:]) for k, t in tables.items()}, Prompt())


def table(results: Results) -> str:
    """A line a task and way, and one a way over the tasks that have it."""
    lines: list[list[str]] = []
    over: dict[str, list[tuple[float, float]]] = {}
    for key, row in results.rows.items():
        dataset, way = key.rsplit("/", 1)
        if "error" in row:
            lines.append([dataset, way, row["error"]])
            continue
        base = results.rows.get(f"{dataset}/{BASELINE}", {})
        figures = [f"{row['rows_per_s']:,.0f}", f"{row['seconds']:.1f}", f"{100 * row['accuracy']:.1f}"]
        if "rows_per_s" in base:
            ratio, gain = row["rows_per_s"] / base["rows_per_s"], 100 * (row["accuracy"] - base["accuracy"])
            over.setdefault(way, []).append((ratio, gain))
            figures += [f"{ratio:.2f}", f"{gain:+.1f}"]
        lines.append([dataset, way, *figures])
    for way, pairs in over.items():
        ratio = math.exp(statistics.fmean(math.log(ratio) for ratio, _ in pairs))
        gain = statistics.fmean(gain for _, gain in pairs)
        lines.append([f"mean of {len(pairs)}", way, "", "", "", f"{ratio:.2f}", f"{gain:+.1f}"])
    columns = ["task", "way", "rows/s", "s", "accuracy", f"× {BASELINE}", f"points over {BASELINE}"]
    return f"{results.header()}\n\n{markdown(columns, lines)}"


def run(
    setting: Setting, tasks: Sequence[TaskRows], ways: Sequence[str], results: Results, *, retry: bool, limit_s: float
) -> str:
    """Measures what is missing, task by task, and returns the table of all there is."""
    process_group(setting.device)
    pairs = [(task, way) for task in tasks for way in ways]
    for task, way in sorted(pairs, key=lambda pair: "graphs" in pair[1]):  # last, since a failed capture may do harm
        key = f"{task.name}/{way}"
        if not results.done(key, retry=retry):
            results.put(key, attempt(partial(WAYS[way], setting, task), setting.device, limit_s))
            print(key, results.rows[key], flush=True)
    return table(results)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="a CL_Benchmark checkout")
    parser.add_argument("--model", default="minilm", help="folder, hub id, or minilm")
    parser.add_argument("--cpu", action="store_true", help="two threads, one task, 256 rows, one epoch")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tasks", help=f"datasets with commas between; {','.join(TASKS)}, the first alone on a CPU")
    parser.add_argument(
        "--ways", default=",".join(WAYS), help="with commas between; all that the device can by default"
    )
    parser.add_argument("--rows", type=int, help="most training rows per task (2000)")
    parser.add_argument("--test-rows", type=int, help="first rows of the test set (1000)")
    parser.add_argument("--epochs", type=int, help="3, on a CPU 1")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=10, help="steps before the clock starts")
    parser.add_argument("--limit-s", type=float, default=240.0, help="a row that takes longer is given up")
    parser.add_argument("--retry", action="store_true", help="measure again what failed")
    parser.add_argument("--results", type=Path, help="a JSON file to go on with and to add to")
    chosen = parser.parse_args()
    if unknown := [way for way in chosen.ways.split(",") if way not in WAYS]:
        parser.error(f"no such way: {', '.join(unknown)}; there are {', '.join(WAYS)}")
    return chosen


def main() -> None:
    """Reads the tasks, measures and prints."""
    import transformers

    chosen = options()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    device = torch.device("cpu" if chosen.cpu else chosen.device)
    if device.type == "cpu":
        torch.set_num_threads(2)
    small: dict[str, Any] = {"rows": 256, "test_rows": 200, "epochs": 1}
    large: dict[str, Any] = {"rows": 2000, "test_rows": 1000, "epochs": 3}
    sizes = {k: getattr(chosen, k) or v for k, v in (small if device.type == "cpu" else large).items()}
    datasets = chosen.tasks.split(",") if chosen.tasks else TASKS[: 1 if device.type == "cpu" else None]
    tasks = [read(dataset, chosen.data_dir, sizes["rows"], sizes["test_rows"]) for dataset in datasets]
    train = TrainConfig(epochs=sizes["epochs"], seed=chosen.seed)
    setting = Setting(chosen.model, device, train, chosen.warm_up, chosen.max_length)
    ways = [way for way in chosen.ways.split(",") if device.type == "cuda" or way not in GPU_ONLY]
    subject = (
        f"MiniLM, {setting.dtype} weights, at most {sizes['rows']} rows and {sizes['test_rows']} test rows per task, "
        f"{train.epochs} epochs, batch {train.batch_size}, {setting.max_length} tokens"
    )
    results = Results.open(subject, chosen.results, provenance(device, warm_up=chosen.warm_up, seed=chosen.seed))
    print("\n" + run(setting, tasks, ways, results, retry=chosen.retry, limit_s=chosen.limit_s))


if __name__ == "__main__":
    main()
