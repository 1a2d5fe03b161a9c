"""Reading a dataset of a CL_Benchmark checkout."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.errors import DataError
from cluster.text_files import NotUtf8, at_home, in_utf8
from trainers.data.formats import decoded
from trainers.data.sources import ClBenchmarkTask, RawTask, Split, did_you_mean, listed, shown


def read_cl_benchmark(task: ClBenchmarkTask, data_dir: Path | None) -> RawTask:
    """One folder of the checkout at `data_dir`."""
    where = f"task {task.name}: dataset {task.dataset!r}"
    if data_dir is None:
        raise DataError(
            f"{where} is read from data_dir, which is not set; use --set data_dir=PATH or the environment variable "
            "ORTHOPLEX_DATA_DIR, with the path of a CL_Benchmark checkout"
        )
    root, available = at_home(data_dir), list[str]()
    with suppress(OSError):
        available = sorted({path.parent.relative_to(root).as_posix() for path in root.glob("*/*/*.json")})
    if not available:
        raise DataError(
            f"{where}: data_dir {str(root)!r} holds no <category>/<dataset>/train.json; "
            "use --set data_dir=PATH with the path of a CL_Benchmark checkout"
        )
    if task.dataset not in available:
        hint = did_you_mean(task.dataset, available)
        raise DataError(f"{where} is not under data_dir {str(root)!r}; available: {listed(available)}{hint}")
    folder = root / task.dataset
    labels = read_json_list(task, folder / "labels.json")
    if not all(isinstance(label, str) for label in labels):
        raise DataError(
            f"task {task.name}: {folder / 'labels.json'}: {shown(labels)} holds more than strings; quote each label"
        )
    return RawTask(
        tuple(labels), benchmark_split(task, folder / "train.json"), None, benchmark_split(task, folder / "test.json")
    )


def benchmark_split(task: ClBenchmarkTask, path: Path) -> Split:
    """The rows of one file: a JSON list of {"sentence", "label"}."""
    rows = read_json_list(task, path)
    for number, row in enumerate(rows, start=1):
        absent = {"sentence", "label"} - set(row) if isinstance(row, dict) else {"sentence", "label"}
        if absent:
            raise DataError(
                f"task {task.name}: {path} row {number}: {shown(row)} has no {' and no '.join(sorted(absent))}; "
                'every row is {"sentence": …, "label": …}'
            )
    return Split(str(path), [row["sentence"] for row in rows], [row["label"] for row in rows])


def read_json_list(task: ClBenchmarkTask, path: Path) -> list[Any]:
    """The JSON list in `path`."""
    if not path.is_file():
        raise DataError(f"task {task.name}: {path} is absent; complete the CL_Benchmark checkout")
    try:
        with in_utf8(path):
            text = path.read_text(encoding="utf-8-sig")
        content = decoded(text)
    except (OSError, ValueError) as error:
        fix = "save it as UTF-8" if isinstance(error, NotUtf8) else "repair the file"
        raise DataError(f"task {task.name}: {path} is not readable JSON ({error}); {fix}") from None
    if not isinstance(content, list):
        raise DataError(f"task {task.name}: {path} holds {shown(content)}; it must be a JSON list")
    return content
