"""Rows per second of `orthoplex predict` beside a plain loop over transformers, on made-up rows.

    python benchmarks/predict.py ADAPTER TASK [ROWS] [STORE]

By an encoder's adapter. Both label the same rows of 4 to 40 words, 64 a pass. The loop has the stream in the weights
(`orthoplex.load`), tokenises batch by batch in the order of the file, and keeps nothing; `predict` reads a file, writes
parts and joins them to another. They take turns, twice. Printed: rows per second without loading the model, and the
share of equal labels.
"""

import csv
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

import orthoplex
from orchestrator.delivery.predicting import Asking, Predicting
from trainers.models.encoder import LOGIT_SCALE
from trainers.models.loading import resolve_name

BATCH, TURNS = 64, 2


def texts(rows: int) -> list[str]:
    """Rows of words that docstrings have."""
    draw = np.random.default_rng(0)
    words = [
        "return",
        "mean",
        "of",
        "an",
        "array",
        "open",
        "file",
        "socket",
        "index",
        "column",
        "tensor",
        "shape",
        "path",
    ]
    return [" ".join(draw.choice(words, draw.integers(4, 41))) for _ in range(rows)]


@torch.no_grad()
def plain(model: Any, tokenizer: Any, labels_CD: Tensor, rows: list[str], most: int) -> list[int]:
    """Label indices, batch by batch."""
    found: list[int] = []
    for start in range(0, len(rows), BATCH):
        found += (
            (LOGIT_SCALE * embed(model, tokenizer, rows[start : start + BATCH], most) @ labels_CD.T).argmax(-1).tolist()
        )
    return found


@torch.no_grad()
def embed(model: Any, tokenizer: Any, rows: list[str], most: int) -> Tensor:
    """(B, D) mean-pooled unit embeddings."""
    held = tokenizer(rows, padding=True, truncation=True, max_length=most, return_tensors="pt").to(model.device)
    mask_BS1 = held["attention_mask"].unsqueeze(-1)
    hidden_BSD = model(**held).last_hidden_state
    return nn.functional.normalize((hidden_BSD * mask_BS1).sum(1) / mask_BS1.sum(1), dim=-1)


def main(reference: str, task: str, rows: int, store: str | None) -> None:
    """See the head of this module."""
    predictor = orthoplex.Predictor(reference, store=store, batch_size=BATCH)
    known = predictor.repertoire.tasks[task]
    words, config = predictor.repertoire.labels_of(known).words, predictor.repertoire.run.model
    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve_name(config.name))
    model: Any = transformers.AutoModel.from_pretrained(resolve_name(config.name)).eval()
    labels_CD = embed(model, tokenizer, [*words], config.max_length)
    model = orthoplex.load(predictor.reference, base=model, store=store).to(predictor.base.device)
    asked = texts(rows)
    with tempfile.TemporaryDirectory(prefix="orthoplex-benchmark-") as folder:
        path = Path(folder) / "in.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in asked)])
        for turn in range(TURNS):
            started = time.perf_counter()
            expected = plain(model, tokenizer, labels_CD.to(model.device), asked, config.max_length)
            middle = time.perf_counter()
            output = Path(folder) / f"out{turn}.csv"
            work = Predicting(
                asking=Asking(known=known), reference=predictor.reference, manifest_sha256="", inputs=[path],
                output=output, form="csv",
            )  # fmt: skip
            work.check(replace=False)
            work.run(lambda: predictor)
            ended = time.perf_counter()
            found = [row["label"] for row in csv.DictReader(output.open(newline=""))]
            same = np.mean([words[index] == label for index, label in zip(expected, found, strict=True)])
            rates = rows / (middle - started), rows / (ended - middle)
            print(f"{rows:,} rows: plain loop {rates[0]:,.0f} a second, predict {rates[1]:,.0f}; same label {same:.2%}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int((sys.argv[3:4] or ["20000"])[0]), (sys.argv[4:5] or [None])[0])
