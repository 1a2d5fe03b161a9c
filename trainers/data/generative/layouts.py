"""The folders of two benchmarks: Super-NaturalInstructions (arXiv:2204.07705) and TRACE (arXiv:2310.06762)."""

import hashlib
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import DataError
from cluster.text_files import at_home, in_utf8
from trainers.data.docstring_answers import answer_rows
from trainers.data.docstrings import draw
from trainers.data.generative.config import DocstringAnswersTask, SuperniTask, TraceTask
from trainers.data.generative.reading import Rows, Source, parsed, readable
from trainers.data.sources import did_you_mean, listed, shown

SUPERNI_TEST_ROWS, SUPERNI_TEST_SHARE = 100, 0.2  # of a task in one file, whichever is less
TRACE_FILES = {"train": "train.json", "validation": "eval.json", "test": "test.json"}


def data_root(task: SuperniTask | TraceTask, data_dir: Path | None) -> Path:
    """The task's own data_dir, else the run's. Raises DataError if there is none."""
    root = at_home(task.data_dir) if task.data_dir else data_dir
    if root is None:
        raise DataError(
            f"task {task.name}: path {task.path!r} is read below data_dir, which is not set; set the task's data_dir, "
            "or use --set data_dir=PATH or the environment variable ORTHOPLEX_DATA_DIR"
        )
    return at_home(root)


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
    with readable(task, where), in_utf8(path):
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
    before = superni_beginning(task, definition, positive_examples(task, where, held))
    rows = [
        (where, number, superni_row(task, where, number, each, before))
        for number, each in enumerate(instances, start=1)
    ]
    return rows, digest, size


def positive_examples(task: SuperniTask, where: str, held: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Input and output of the first Positive Examples, as many as the task asks for and the file has."""
    if not task.positive_examples:
        return []
    given = held.get("Positive Examples")
    found = [(each.get("input"), each.get("output")) for each in given or () if isinstance(each, Mapping)]
    said: list[Any] = [(asked, output[0] if isinstance(output, list) and output else output) for asked, output in found]
    if not said or not all(isinstance(text, str) for pair in said for text in pair):
        raise DataError(
            f"task {task.name}: {where} has no Positive Examples of an input and an output; remove positive_examples"
        )
    return said[: task.positive_examples]


def closed(text: str) -> str:
    """The text with a full stop, unless it ends in punctuation: as the benchmark's own code writes each part."""
    return text if text[-1] in string.punctuation else f"{text}."


def superni_beginning(task: SuperniTask, definition: str, examples: Sequence[tuple[str, str]]) -> str:
    """What stands before an input: the definition, and examples."""
    if task.mode == "parity":
        shown_before = [
            f"{closed(f' Positive Example {number} -{chr(10)}Input: {asked.strip()}')}\n"
            f"{closed(f' Output: {output.strip()}')}\n\n"
            for number, (asked, output) in enumerate(examples, start=1)
        ]
        return "".join([f"{closed(f'Definition: {definition.strip()}')}\n\n", *shown_before])
    shown_before = [
        f"Positive Example {number} -\nInput: {asked}\nOutput: {output}\n\n"
        for number, (asked, output) in enumerate(examples, start=1)
    ]
    return "".join([f"Definition: {definition}\n\n", *shown_before])


def superni_prompt(task: SuperniTask, before: str, asked: str) -> str:
    """The prompt of one input."""
    shown_last = f"Now complete the following example -\nInput: {asked.strip() if task.mode == 'parity' else asked}"
    return f"{before}{closed(shown_last) if task.mode == 'parity' else shown_last}\nOutput: "


def superni_row(task: SuperniTask, where: str, number: int, instance: Any, before: str) -> dict[str, Any]:
    """One instance as prompt, completion and references. Empty outputs beside others do not count."""
    outputs = instance.get("output") if isinstance(instance, Mapping) else None
    outputs = [outputs] if isinstance(outputs, str) else outputs
    asked = instance.get("input") if isinstance(instance, Mapping) else None
    fits = isinstance(outputs, list) and outputs and all(isinstance(each, str) for each in outputs)
    if not isinstance(outputs, list) or not fits or not isinstance(asked, str):
        raise DataError(
            f"task {task.name}: {where} row {number}: {shown(instance)} has no input or no output; "
            "instances are {id, input, output: string or list of strings}"
        )
    said = [output for output in outputs if output.strip()] or outputs
    return {"prompt": superni_prompt(task, before, asked), "completion": said[0], "references": said[1:]}


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
