"""Rows per second of `orthoplex predict` beside a plain loop over transformers, on made-up rows, as a ratio.

    python -m benchmarks.predicting ADAPTER TASK [--rows 20000] [--words 16] [--turns 5] [--store S] [--workers N …]

By an encoder's adapter. All label the same rows of 4 words or more, 64 a pass. The loop has the stream in the weights
(`orthoplex.load`), tokenises batch by batch in the order of the file, and keeps nothing; `predict` reads a file, writes
parts and joins them to another, in this process and, if `--workers` is given, with so many on Ray, whose start and
loading count. They take turns, each over a slice of the rows, so that other load of the machine meets all. Printed:
the rows per second of each turn, without loading this process's models, and of all; the ratio to the loop, with the
least and the greatest of a turn; the share of equal labels, and the peak memory of this process.
"""

import argparse
import csv
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

import orthoplex
from benchmarks.harness import describe, provenance
from cluster.storage import open_store
from orchestrator.delivery.load import store_uri
from orchestrator.delivery.predicting import Asking, Predicting
from orchestrator.delivery.spread import Opening, Spread
from trainers.models.encoder import LOGIT_SCALE
from trainers.models.loading import resolve_name

BATCH = 64
WORDS = ["return", "mean", "of", "an", "array", "open", "file", "socket", "index", "column", "tensor", "shape", "path"]


def texts(rows: int, most: int) -> list[str]:
    """Rows of 4 to `most` words that docstrings have."""
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, draw.integers(4, most + 1))) for _ in range(rows)]


@torch.no_grad()
def embed(model: Any, tokenizer: Any, rows: list[str], most: int) -> Tensor:
    """(B, D) mean-pooled unit embeddings."""
    held = tokenizer(rows, padding=True, truncation=True, max_length=most, return_tensors="pt").to(model.device)
    mask_BS1 = held["attention_mask"].unsqueeze(-1)
    hidden_BSD = model(**held).last_hidden_state
    return nn.functional.normalize((hidden_BSD * mask_BS1).sum(1) / mask_BS1.sum(1), dim=-1)


@dataclass(frozen=True)
class Loop:
    """The plain loop: `labels_CD` are the words' embeddings by the base alone."""

    model: Any
    tokenizer: Any
    words: tuple[str, ...]
    labels_CD: Tensor
    most: int
    batch: int = BATCH

    def __call__(self, rows: list[str]) -> list[str]:
        """The label of each row, batch by batch."""
        found: list[int] = []
        for start in range(0, len(rows), self.batch):
            held_BD = embed(self.model, self.tokenizer, rows[start : start + self.batch], self.most)
            found += (LOGIT_SCALE * held_BD @ self.labels_CD.T).argmax(-1).tolist()
        return [self.words[index] for index in found]


def loop_of(
    predictor: orthoplex.Predictor, task: str, store: str | None, batch: int = BATCH, base: str | None = None
) -> Loop:
    """The loop for a task of a version; `base` is where its base is, if not where the run had it."""
    known, config = predictor.repertoire.tasks[task], predictor.repertoire.run.model
    name, device = base or resolve_name(config.name), predictor.base.device
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
    model: Any = transformers.AutoModel.from_pretrained(name, dtype=getattr(torch, config.dtype)).eval()
    words = predictor.repertoire.labels_of(known).words
    labels_CD = embed(model, tokenizer, [*words], config.max_length)
    model = orthoplex.load(predictor.reference, base=model, store=store).to(device)
    return Loop(model, tokenizer, words, labels_CD.to(device), config.max_length, batch)


@dataclass(frozen=True)
class Predict:
    """`orthoplex predict` from a file to a file."""

    predictor: orthoplex.Predictor
    task: str
    folder: Path
    store: str
    workers: int = 1

    def __call__(self, rows: list[str]) -> list[str]:
        """The labels in the file that it writes."""
        path, output = self.folder / "in.csv", self.folder / "out.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in rows)])
        output.unlink(missing_ok=True)
        work = Predicting(
            asking=Asking(known=self.predictor.repertoire.tasks[self.task]), reference=self.predictor.reference,
            manifest_sha256="", inputs=[path], output=output, form="csv",
        )  # fmt: skip
        work.check(replace=False)
        if self.workers == 1:
            work.run(lambda: self.predictor)
        else:
            opening = Opening(reference=self.predictor.reference, store=self.store, how={"batch_size": BATCH})
            Spread(workers=self.workers).run(work, opening)
        with output.open(newline="") as file:
            return [row["label"] for row in csv.DictReader(file)]


def measured(ways: dict[str, Callable[[list[str]], list[str]]], rows: list[str], turns: int) -> dict[str, list[float]]:
    """Runs the ways in turns, the first of which is what others are compared with. The seconds of each turn, printed as
    rates."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        part, labels = rows[turn::turns], list[str]()
        for name, way in ways.items():
            started = time.perf_counter()
            found = way(part)
            took[name].append(time.perf_counter() - started)
            labels = labels or found
            same = np.mean([one == other for one, other in zip(found, labels, strict=True)])
            rate = len(part) / took[name][-1]
            print(f"turn {turn + 1}, {name}: {rate:,.0f} rows a second; same label {same:.2%}", flush=True)
    first = next(iter(ways))
    for name, mine in took.items():
        ratios = [loop / each for loop, each in zip(took[first], mine, strict=True)]
        print(
            f"{name}: {len(rows) / sum(mine):,.0f} rows a second, {sum(took[first]) / sum(mine):.2f} × the {first} "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {turns} turns)"
        )
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    return took


def main() -> None:
    """See the head of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter")
    parser.add_argument("task")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--store")
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--words", type=int, default=16, help="of a row at most")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    predictor = orthoplex.Predictor(given.adapter, store=given.store, batch_size=BATCH)
    print(describe(provenance(torch.device(predictor.base.device), rows=given.rows, words=given.words, batch=BATCH)))
    store = open_store(store_uri(given.store)).uri
    with tempfile.TemporaryDirectory(prefix="orthoplex-benchmark-") as folder:
        ways: dict[str, Callable[[list[str]], list[str]]] = {"plain loop": loop_of(predictor, given.task, given.store)}
        for workers in (1, *given.workers):
            name = "predict" if workers == 1 else f"predict --workers {workers}"
            ways[name] = Predict(predictor, given.task, Path(folder), store, workers)
        measured(ways, texts(given.rows, given.words), given.turns)


if __name__ == "__main__":
    main()
