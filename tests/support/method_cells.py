"""A small plan of methods and streams, and made lines of its cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.methods.plan import Cell, Plan, cell, values_of
from benchmarks.methods.rows import packed

ROWS = 8
MACHINE = {
    "machine": "made", "torch": "2", "transformers": "5", "deepspeed": "0", "commit": "abc", "day": "2026-11-28",
    "beside": 1,
}  # fmt: skip


def made_plan(**more: Any) -> Plan:
    """Two orders of two tasks in a group; ours, a rival that is tuned, and a bound."""
    task = {"source": "docstrings", "task": "library"}
    stream = {"group": "pairs", "names": {"outputs": ["output.dense"]}, "olora": 1000, "estimate_s": 60.0}
    adapter = {"target_modules": "$outputs"}
    content = {
        "ours": "ours",
        "tune_on": "ab",
        "common": {"model": {"name": "minilm"}, "train": {"epochs": 3}},
        "tasks": {"a": task, "b": task},
        "streams": {
            "ab": {**stream, "tasks": ["a", "b"]},
            "ba": {**stream, "tasks": ["b", "a"], "estimate_s": 120.0, "settings": {"train": {"min_steps": 5}}},
        },
        "methods": {
            "ours": {"label": "Ours", "seeds": [0, 1], "settings": {"adapter": adapter}},
            "rival": {
                "label": "Rival", "settings": {"adapter": {"method": "lora", **adapter}},
                "tune": [{"train.learning_rate": 0.1}, {"train.learning_rate": 0.2}],
            },
            "bound": {"label": "Bound", "bound": True, "streams": ["ab"], "settings": {"adapter": adapter}},
        },
    }  # fmt: skip
    return Plan.model_validate({**content, **more})


def line(
    found: Cell, last: Sequence[float], *, first: float = 0.5, kept: int = 500, validation: float | None = None
) -> dict[str, Any]:
    """The line of a cell whose accuracies at the end are `last`, in the order of its tasks, in eighths; `first` is that
    of its first task after its own training."""
    names = [task["name"] for task in found.settings["tasks"]]
    matrix = [[first, None], [*last]]
    judged = sum(last) / 2 if validation is None else validation
    right = {
        name: packed((np.arange(ROWS) < round(value * ROWS)).astype(float))
        for name, value in zip(names, last, strict=True)
    }
    return {
        **found.named(), "tasks": names, "rows": [ROWS, ROWS], "test": matrix,
        "validation": [[judged, None], [judged] * 2], "zero_shot": [0.25, 0.25], "aa": sum(last) / 2,
        "bwt": last[0] - first, "forgetting": first - last[0], "fwt": None, "la": (first + last[1]) / 2, "trained": 900,
        "kept": kept, "stored_bytes": 2_000_000, "train_s": 10.0, "evaluate_s": 1.0, "base": "b" * 64, "correct": right,
        "wall_s": 12.0, "resumed": 0, "peak_gpu_bytes": None,
        "by_task": [
            {"kept": kept // 2, "ranks": 4, "of": 8, "dead": 1, "layers": 4, "written": 0.1 * n, "read": 0.2}
            for n in (1, 2)
        ],
        **MACHINE,
    }  # fmt: skip


def put(lines: dict[str, Any], plan: Plan, place: str, last: Sequence[float], **more: Any) -> None:
    """Adds the line of a cell, named METHOD/STREAM/SEED, with the values that tuning chose."""
    method, stream, seed = place.split("/")
    values = values_of(plan, method, stream, lines)
    assert values is not None
    made = line(cell(plan, method, stream, int(seed), values), last, **more)
    lines[made["key"]] = made
