"""Writes the tutorial's data: texts with a label, train and test, for three tasks. The texts are first lines of
docstrings that are on this machine, so nothing is fetched."""

import csv
import importlib
import inspect
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

TASKS = {
    "library": {
        "numpy": ["numpy", "numpy.linalg", "numpy.random"],
        "pandas": ["pandas"],
        "torch": ["torch", "torch.nn", "torch.nn.functional"],
    },
    "topic": {
        "networks": ["socket", "ssl", "http.client", "urllib.request", "smtplib", "ftplib", "imaplib", "asyncio"],
        "files": ["os", "pathlib", "shutil", "zipfile", "tarfile", "tempfile", "io", "fileinput"],
        "numbers": ["math", "cmath", "statistics", "random", "decimal", "fractions"],
        "text": ["re", "textwrap", "string", "difflib", "json", "csv", "email.message", "html.parser"],
    },
    "kind": {
        "estimator": [
            "sklearn.linear_model",
            "sklearn.ensemble",
            "sklearn.svm",
            "sklearn.cluster",
            "sklearn.neighbors",
        ],
        "metric": ["sklearn.metrics", "sklearn.metrics.pairwise"],
        "dataset": ["sklearn.datasets"],
    },
}


def first_lines(modules: Sequence[str]) -> Iterator[str]:
    """The first line of the docstring of each public function, class and method of the modules."""
    for module in map(importlib.import_module, modules):
        for name, found in inspect.getmembers(module):
            if name.startswith("_") or inspect.ismodule(found):
                continue
            inner = inspect.getmembers(found) if inspect.isclass(found) else []
            for each in [found, *(member for key, member in inner if not key.startswith("_") and callable(member))]:
                line = (inspect.getdoc(each) or "").partition("\n")[0]
                if line.count(" ") >= 3:
                    yield line


def main() -> None:
    """Writes data/TASK_train.csv and data/TASK_test.csv, shuffled by a fixed seed, at most 160 rows per label."""
    warnings.simplefilter("ignore")  # of what members of modules are deprecated
    Path("data").mkdir(exist_ok=True)
    for task, labels in TASKS.items():
        rows = []
        for label, modules in labels.items():
            texts = sorted({*first_lines(modules)})
            random.Random(0).shuffle(texts)
            rows += [(text, label) for text in texts[:160]]
        random.Random(0).shuffle(rows)
        held_out = len(rows) // 5
        for split, part in {"test": rows[:held_out], "train": rows[held_out:]}.items():
            with Path(f"data/{task}_{split}.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("text", "label"), *part])
        print(f"{task}: {len(rows) - held_out} rows to train on, {held_out} to test on")


if __name__ == "__main__":
    main()
