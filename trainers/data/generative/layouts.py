"""The folders of two benchmarks: Super-NaturalInstructions (arXiv:2204.07705) and TRACE (arXiv:2310.06762)."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import DataError
from trainers.data.docstring_answers import answer_rows
from trainers.data.docstrings import draw
from trainers.data.generative.config import DocstringAnswersTask, SuperniTask, TraceTask
from trainers.data.generative.reading import Rows, Source, parsed, readable
from trainers.data.sources import did_you_mean, listed, shown

SUPERNI_PROMPT = "Definition: {definition}\n\nNow complete the following example -\nInput: {input}\nOutput: "
SUPERNI_TEST_ROWS, SUPERNI_TEST_SHARE = 100, 0.2  # of a task in one file, whichever is less
TRACE_FILES = {"train": "train.json", "validation": "eval.json", "test": "test.json"}


def data_root(task: SuperniTask | TraceTask, data_dir: Path | None) -> Path:
    """The task's own data_dir, else the run's. Raises DataError if there is none."""
    root = Path(task.data_dir).expanduser() if task.data_dir else data_dir
    if root is None:
        raise DataError(
            f"task {task.name}: path {task.path!r} is read below data_dir, which is not set; set the task's data_dir, "
            "or use --set data_dir=PATH or the environment variable ORTHOPLEX_DATA_DIR"
        )
    return root.expanduser()


def no_task(task: SuperniTask | TraceTask, root: Path, wanted: str) -> DataError:
    """The error for a path that holds no task of its layout."""
    try:
        there = sorted(each.name for each in root.iterdir() if each.is_dir() or each.suffix == ".json")
    except OSError:
        return DataError(f"task {task.name}: data_dir {str(root)!r} is no folder; give the one that holds the tasks")
    return DataError(
        f"task {task.name}: path {task.path!r} below data_dir {str(root)!r} holds no {wanted}; there: "
        f"{listed(there) or 'nothing'}{did_you_mean(task.path, there)}"
    )


def content(task: str, path: Path) -> tuple[Any, str, int]:
    """What a JSON file holds, its digest and its size."""
    where = f"{str(path)!r}"
    with readable(task, where):
        data = path.read_bytes()
        return parsed(task, where, data.decode("utf-8-sig")), hashlib.sha256(data).hexdigest(), len(data)


# ---------------------------------------------------------------- Super-NaturalInstructions


def superni_sources(task: SuperniTask, data_dir: Path | None, seed: int) -> dict[str, Source]:
    """The splits of one task: those of its two files, or its one file divided by the seed.

    Raises:
        DataError: the files are absent or not of this layout.
    """
    root = data_root(task, data_dir)
    folder = root / task.path
    single = next((path for path in (folder, folder.with_name(f"{folder.name}.json")) if path.is_file()), None)
    if single:
        rows, digest, size = superni_rows(task, single)
        tested = superni_test_ids(rows, seed)
        parts = {"train": lambda row: row[1] not in tested, "test": lambda row: row[1] in tested}
        return {
            key: listed_source(
                f"{key} of {str(single)!r}", [row for row in rows if keep(row)], f"{digest} {seed}", size
            )
            for key, keep in parts.items()
        }
    found = {key: folder / f"{key}.json" for key in ("train", "test")}
    if not all(path.is_file() for path in found.values()):
        raise no_task(task, root, "train.json and test.json, nor is it one JSON file")
    return {key: listed_source(f"{key} {str(path)!r}", *superni_rows(task, path)) for key, path in found.items()}


def superni_rows(task: SuperniTask, path: Path) -> tuple[list[tuple[str, int, Any]], str, int]:
    """Rows of prompt, completion and references; an instance without an output stays, and is refused later."""
    held, digest, size = content(task.name, path)
    where = f"{str(path)!r}"
    definition = held.get("Definition") if isinstance(held, Mapping) else None
    definition = definition[0] if isinstance(definition, list) and definition else definition
    instances = held.get("Instances") if isinstance(held, Mapping) else None
    if not isinstance(definition, str) or not isinstance(instances, list):
        raise DataError(f"task {task.name}: {where} has no Definition and Instances; give a task of this layout")
    rows = [
        (where, number, superni_row(task, where, number, each, definition))
        for number, each in enumerate(instances, start=1)
    ]
    return rows, digest, size


def superni_row(task: SuperniTask, where: str, number: int, instance: Any, definition: str) -> dict[str, Any]:
    """One instance as prompt, completion and references."""
    outputs = instance.get("output") if isinstance(instance, Mapping) else None
    outputs = [outputs] if isinstance(outputs, str) else outputs
    asked = instance.get("input") if isinstance(instance, Mapping) else None
    fits = isinstance(outputs, list) and outputs and all(isinstance(each, str) for each in outputs)
    if not isinstance(outputs, list) or not fits or not isinstance(asked, str):
        raise DataError(
            f"task {task.name}: {where} row {number}: {shown(instance)} has no input or no output; "
            "instances are {id, input, output: string or list of strings}"
        )
    prompt = SUPERNI_PROMPT.format_map({"definition": definition, "input": asked})
    return {"prompt": prompt, "completion": outputs[0], "references": outputs[1:]}


def superni_test_ids(rows: list[tuple[str, int, Any]], seed: int) -> set[int]:
    """The numbers of the rows that are the test split of a task in one file."""
    size = min(SUPERNI_TEST_ROWS, max(1, round(SUPERNI_TEST_SHARE * len(rows))))
    drawn = sorted(rows, key=lambda row: draw(seed, "superni test", json.dumps(row[2]["prompt"])))
    return {number for _, number, _ in drawn[:size]}


def listed_source(where: str, rows: list[tuple[str, int, Any]], digest: str, size: int) -> Source:
    """A split that is in memory."""

    def again() -> Rows:
        return iter(rows)

    return Source(where, again, digest, size)


# ---------------------------------------------------------------- TRACE


def trace_sources(task: TraceTask, data_dir: Path | None) -> dict[str, Source]:
    """The splits of one task; eval.json may be absent.

    Raises:
        DataError: the files are absent or not of this layout.
    """
    root = data_root(task, data_dir)
    paths = {key: root / task.path / name for key, name in TRACE_FILES.items()}
    if not paths["train"].is_file() or not paths["test"].is_file():
        raise no_task(task, root, "train.json and test.json")
    return {key: trace_source(task, key, path) for key, path in paths.items() if path.is_file()}


def trace_source(task: TraceTask, key: str, path: Path) -> Source:
    """One file: a JSON list of {"prompt", "answer"}."""
    held, digest, size = content(task.name, path)
    if not isinstance(held, list):
        raise DataError(f"task {task.name}: {str(path)!r} holds {shown(held)}; it must be a JSON list of rows")
    return listed_source(f"{key} {str(path)!r}", list(trace_rows(task, f"{str(path)!r}", held)), digest, size)


def trace_rows(task: TraceTask, where: str, held: list[Any]) -> Iterator[tuple[str, int, Any]]:
    """Rows of prompt and completion."""
    for number, row in enumerate(held, start=1):
        if not isinstance(row, Mapping) or not {"prompt", "answer"} <= {*row}:
            raise DataError(
                f'task {task.name}: {where} row {number}: {shown(row)} is not {{"prompt": …, "answer": …}}; repair it'
            )
        yield where, number, {"prompt": row["prompt"], "completion": row["answer"]}


# ---------------------------------------------------------------- docstrings


def docstring_sources(task: DocstringAnswersTask, seed: int) -> dict[str, Source]:
    """The splits of a built-in task over docstrings."""
    sources = {}
    for key, part in zip(("train", "test"), answer_rows(task.task, seed), strict=True):
        where = f"{key} of docstrings {task.task}"
        digest = hashlib.sha256(json.dumps(part).encode()).hexdigest()
        sources[key] = listed_source(where, [(where, n, row) for n, row in enumerate(part, start=1)], digest, 0)
    return sources
