"""`orthoplex predict` over a million rows: killed at 40%, started again, checked, and beside a plain loop.

    python -m benchmarks.predicting_million --base FOLDER --work FOLDER [--rows 1000000] [--batch 512] [--device cuda]

`--base` is a BERT-like encoder with its tokenizer, as of MiniLM. Nothing is downloaded and nothing is trained: the
adapter is a drawn LoRA, brought in by `orthoplex adapters import`, or with `--store` a version that is there over this
base (`--adapter`, `--task`), as of method `oa`, which is folded into the weights; a LoRA is computed beside them.
Rows are of 4 to `--words` words, with a number each. Ray, DeepSpeed, datasets, pyarrow and boto3 need not be installed.
Each stage prints a line of JSON and keeps it in `--work`/results.json: what is there is not done again by another call.

    adapter   the version and its base
    rows      the file of rows
    killed    `predict` in a process of its own, which gets SIGKILL at `--kill-at` of the rows
    again     the same command to its end: rows per second, and that no part that was there is written again
    checked   every row is in the output once, in order
    same      labels of `--sample` rows of the output and of a plain loop over transformers (`benchmarks.predicting`)
    turns     rows per second of both, in turns over `--loop` rows, `predict` from a file to a file, models loaded

The command fails if a row stands twice or lacks, if a part is written again, or if more than 1 in 1,000 labels differ.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import orthoplex
from benchmarks.harness import Row, provenance
from benchmarks.predicting import Loop, Predict, loop_of, measured, texts
from orchestrator.delivery.parts import Parts
from orchestrator.delivery.predicting import ROWS_AT_ONCE

DRAWN, RANK = "bench/lora", 16
LABELS = ("arrays", "files", "sockets", "tensors", "columns")
TARGETS = ("attention.output.dense", "output.dense")
POLL_S = 0.05


@dataclass
class Stages:
    """What is done, kept in a file after every stage."""

    path: Path
    done: dict[str, Row] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Stages":
        """Those of a folder."""
        path = folder / "results.json"
        return cls(path, json.loads(path.read_text()) if path.exists() else {})

    def run(self, name: str, stage: Callable[[], Row]) -> Row:
        """What a stage found, which is done now unless it was before."""
        if name not in self.done:
            started = time.perf_counter()
            self.done[name] = {**stage(), "took_s": round(time.perf_counter() - started, 1)}
            self.path.write_text(json.dumps(self.done, indent=1))
        print(json.dumps({"stage": name, **self.done[name]}), flush=True)
        return self.done[name]


@dataclass(frozen=True)
class Million:
    """The stages, in a folder."""

    given: argparse.Namespace
    folder: Path

    @property
    def store(self) -> str:
        """Where the adapter is."""
        return str(self.given.store or self.folder / "store")

    @property
    def input(self) -> Path:
        """The rows."""
        return self.folder / "rows.jsonl"

    @property
    def parts(self) -> Parts:
        """Those of the output."""
        return Parts(output=self.folder / "answers.jsonl", form="jsonl", size=ROWS_AT_ONCE["labels"])

    def adapter(self) -> Row:
        """Draws a LoRA and brings it in, unless a store is given."""
        if not self.given.store:
            folder = self.folder / "lora"
            draw_lora(self.given.base, folder)
            self.command(
                "adapters", "import", str(folder), "--as", DRAWN, "--model", str(self.given.base), "--task",
                self.given.task, "--labels", ",".join(LABELS), "--task-type", "LABEL_EMBEDDING", "--max-length", "128",
            )  # fmt: skip
        device = torch.device(self.given.device)
        return {"adapter": self.given.adapter, "batch": self.given.batch, "cpus": os.cpu_count(), **provenance(device)}

    def rows(self) -> Row:
        """Writes the rows."""
        made = texts(self.given.rows, self.given.words)
        with self.input.open("w") as file:
            file.writelines(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(made))
        return {"rows": len(made), "mib": round(self.input.stat().st_size / 2**20, 1)}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line in a process of its own. Raises SystemExit with what it says if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments, "--store", self.store],
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"orthoplex {arguments[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def predict(self) -> subprocess.Popen[str]:
        """Starts `orthoplex predict`."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "predict", self.given.adapter, "--input", str(self.input),
             "--output", str(self.parts.output), "--task", self.given.task, "--store", self.store, "--model",
             str(self.given.base), "--device", self.given.device, "--batch-size", str(self.given.batch)],
            text=True, stdout=subprocess.PIPE, stderr=(self.folder / "predict.log").open("a"),
        )  # fmt: skip

    def killed(self) -> Row:
        """Kills a prediction once enough parts are there."""
        least, started = int(self.given.kill_at * self.given.rows / self.parts.size), time.perf_counter()
        process = self.predict()
        while process.poll() is None and len(seen(self.parts)) < least:
            time.sleep(POLL_S)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit(f"predict ended with {process.returncode} before it was killed: see predict.log")
        there = seen(self.parts)
        rows, seconds = len(there) * self.parts.size, time.perf_counter() - started
        return {"parts": there, "rows": rows, "rows_per_s": round(rows / seconds), "least": least}

    def again(self, before: Mapping[str, list[int]]) -> Row:
        """Goes on to the end; `before` are the parts that were there."""
        started, latest = time.perf_counter(), dict[str, list[int]]()
        process = self.predict()
        written_again = set[str]()
        while process.poll() is None:
            now = seen(self.parts)
            written_again |= {name for name, known in before.items() if now.get(name, known) != known}
            latest = now if len(now) >= len(latest) else latest
            time.sleep(POLL_S)
        seconds, said = time.perf_counter() - started, process.stdout.read() if process.stdout else ""
        answered_before = len(before) * self.parts.size
        told = f"{answered_before:,} of them were answered before"
        if process.returncode or told not in said or written_again:
            raise SystemExit(f"again: ended with {process.returncode}, said {said!r}, wrote again {written_again}")
        rate = (self.given.rows - answered_before) / seconds
        return {"said": said.strip(), "seen_parts": len(latest), "written_again": 0, "rows_per_s": round(rate)}

    def checked(self) -> Row:
        """Every row once, in order."""
        with self.parts.output.open() as file:
            numbers = np.fromiter((json.loads(line)["id"] for line in file), np.int64)
        if not np.array_equal(numbers, np.arange(self.given.rows)):
            raise SystemExit(f"{len(numbers):,} rows in the output, {len(np.unique(numbers)):,} different ones")
        left = self.parts.folder.exists()
        return {"rows": len(numbers), "twice": 0, "absent": 0, "folder_of_parts_left": left}

    def same(self, loop: Loop) -> Row:
        """Labels of the output beside those of the loop, of rows that are spread over all."""
        every = max(1, self.given.rows // self.given.sample)
        with self.parts.output.open() as file:
            rows = [json.loads(line) for line in islice(file, 0, None, every)][: self.given.sample]
        found = loop([row["text"] for row in rows])
        other = sum(row["label"] != label for row, label in zip(rows, found, strict=True))
        if other > len(rows) / 1000:
            raise SystemExit(f"{other} of {len(rows)} labels differ from the loop's")
        return {"rows": len(rows), "other_labels": other, "labels": dict(count(found))}

    def turns(self, loop: Loop, predictor: orthoplex.Predictor) -> Row:
        """Rates of both."""
        ways: dict[str, Callable[[list[str]], list[str]]] = {
            "plain loop": loop, "predict": Predict(predictor, self.given.task, self.folder, self.store)
        }  # fmt: skip
        for way in ways.values():
            way(texts(self.given.batch * 4, self.given.words))  # kernels are chosen, memory is taken
        took = measured(ways, texts(self.given.loop, self.given.words), self.given.turns)
        rates = {name: round(self.given.loop / sum(each)) for name, each in took.items()}
        ratio = sum(took["plain loop"]) / sum(took["predict"])
        return {"rows_per_s": rates, "predict_by_loop": round(ratio, 2), "loop_batch": loop.batch}


def draw_lora(base: Path, folder: Path) -> None:
    """A LoRA in the form of PEFT on the layers that end in TARGETS, strong enough to change labels."""
    model = transformers.AutoModel.from_pretrained(base)
    draw, tensors = torch.Generator().manual_seed(0), dict[str, torch.Tensor]()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(TARGETS):
            a_RK = torch.randn(RANK, module.in_features, generator=draw) / module.in_features**0.5
            b_DR = 0.1 * torch.randn(module.out_features, RANK, generator=draw)
            tensors[f"base_model.model.{name}.lora_A.weight"] = a_RK
            tensors[f"base_model.model.{name}.lora_B.weight"] = b_DR
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": [*TARGETS],
              "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": str(base), "bias": "none"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def seen(parts: Parts) -> dict[str, list[int]]:
    """(inode, time of writing) of each part that is there. A part appears by a rename, so one written again differs."""
    found = {}
    for path in parts.folder.glob("[0-9]*"):
        try:
            state = path.stat()
        except FileNotFoundError:  # they are joined and removed
            continue
        found[path.name] = [state.st_ino, state.st_mtime_ns]
    return found


def count(labels: list[str]) -> list[tuple[str, int]]:
    """How often each label was given."""
    names, counts = np.unique(labels, return_counts=True)
    return [*zip(names.tolist(), counts.tolist(), strict=True)]


def main() -> None:
    """See the head of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="with the adapter; default: it is drawn")
    parser.add_argument("--adapter", default=f"{DRAWN}@v1")
    parser.add_argument("--task", default="topic")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--loop", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--words", type=int, default=16, help="of a row at most")
    parser.add_argument("--batch", type=int, default=512, help="rows per forward pass, of both")
    parser.add_argument("--kill-at", type=float, default=0.4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    given.base = given.base.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    stages, work = Stages.of(given.work), Million(given, given.work.resolve())
    stages.run("adapter", work.adapter)
    stages.run("rows", work.rows)
    before = stages.run("killed", work.killed)["parts"]
    stages.run("again", lambda: work.again(before))
    stages.run("checked", work.checked)
    predictor = orthoplex.Predictor(
        given.adapter, store=work.store, model=str(given.base), batch_size=given.batch, device=given.device
    )
    loop = loop_of(predictor, given.task, work.store, given.batch, str(given.base))
    stages.run("same", lambda: work.same(loop))
    stages.run("turns", lambda: work.turns(loop, predictor))


if __name__ == "__main__":
    main()
