"""Seconds and memory of preparing many prompt/completion rows: read, cleaned, split, tokenised, and once more from the
cache.

    python -m benchmarks.million_rows --rows 1000000 [--model docs-lm]

Peak memory is the process's largest resident size (`ru_maxrss`), which counts pages of mapped files that are in memory;
`anonymous` is what of it belongs to the process alone at the end of a step (`RssAnon`).
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trainers.config import ModelConfig
from trainers.data.examples import settings_for
from trainers.data.generative.config import AnyTask
from trainers.data.generative.encoding import encode_task
from trainers.data.generative.preparing import prepare_task
from trainers.data.tasks import DataConfig
from trainers.models.loading import load_tokenizer

WORDS = """return the value of an array along axis or a list with each index string default when given none
object""".split()  # noqa: SIM905


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Rows of about 40 words asked and 15 answered, each question its own."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            asked = f"Question {seed} {index}: {' '.join(rng.choices(WORDS, k=rng.randint(20, 60)))}\n"
            row = {"prompt": asked, "completion": " ".join(rng.choices(WORDS, k=rng.randint(5, 25)))}
            file.write(json.dumps(row) + "\n")


def memory() -> tuple[float, float]:
    """(peak resident, anonymous now) in GiB."""
    anonymous = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, int(anonymous.split()[1]) / 2**20


def timed(name: str, step: Callable[[], Any]) -> Any:
    """What a step gives; its seconds and memory are printed."""
    began, used = time.perf_counter(), time.process_time()
    made = step()
    peak, anonymous = memory()
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    print(
        f"{name}: {seconds:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GiB, anonymous {anonymous:.2f} GiB", flush=True
    )
    return made


def measure(rows: int, model: str, folder: Path) -> None:
    """Prepares and tokenises `rows` rows twice."""
    os.environ["ORTHOPLEX_STATE"] = str(folder / "state")
    for name, count, seed in (("train", rows, 0), ("test", 100, 1)):
        write_rows(folder / f"{name}.jsonl", count, seed)
    given = {"name": "many", "source": "files", "format": "prompt_completion", "train": str(folder / "train.jsonl"),
             "test": str(folder / "test.jsonl"), "max_length": 512}  # fmt: skip
    task: Any = TypeAdapter(AnyTask).validate_python(given)
    tokenizer = load_tokenizer(ModelConfig(name=model, task_type="CAUSAL_LM"))
    settings = settings_for(task, tokenizer, 512, vocabulary=len(tokenizer))
    for again in ("first", "again"):
        data = timed(f"{again}: prepared", lambda: prepare_task(task, DataConfig(), None, 0))
        made = timed(f"{again}: tokenised", lambda data=data: encode_task(task, data, tokenizer, settings))
        print({key: each.counts.body() for key, each in made.items()}, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", default="docs-lm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orthoplex-rows-") as scratch:
        measure(arguments.rows, arguments.model, Path(scratch))
