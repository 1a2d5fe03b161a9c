import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from trainers.data.docstrings import (
    AREAS,
    DocstringTask,
    docstring_rows,
    draw,
    entries,
    masked,
    passage,
    summary,
    unique,
)
from trainers.data.tasks import DataConfig, DocstringsTask, load_task

ROOT = Path(__file__).resolve().parents[3]
TASKS = get_args(DocstringTask)
SIDE_EFFECTS = {"antigravity", "this", "idlelib", "test", "tkinter", "turtle", "turtledemo", "lib2to3"}


def letters(text: str) -> str:
    return re.sub(r"[\W\d_]+", " ", text.lower()).strip()


def digest(task: str, seed: int) -> str:
    return hashlib.sha256(json.dumps(docstring_rows(task, seed)).encode()).hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_enough_balanced_short_and_disjoint(task):
    labels, train, test = docstring_rows(task, seed=0)
    assert 800 <= len(train) + len(test) <= 1500
    assert len(test) == pytest.approx(0.25 * (len(train) + len(test)), abs=len(labels))
    sizes = Counter(label for _, label in train + test)
    assert set(sizes) == set(labels)
    assert list(labels) == sorted(labels)
    assert {label for _, label in test} == set(labels)
    assert max(sizes.values()) <= 3 * min(sizes.values())
    for text, _ in train + test:
        assert len(text) <= 160
        assert text == " ".join(text.split())
        assert len(letters(text).split()) >= 4
    keys = [letters(text) for text, _ in train + test if text.isascii()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("task", TASKS)
def test_no_label_runs_through_the_rows_in_a_block(task):
    _, train, test = docstring_rows(task, seed=0)
    for rows in (train, test):
        half = Counter(label for _, label in rows[: len(rows) // 2])
        whole = Counter(label for _, label in rows)
        assert all(0.25 < half[label] / whole[label] < 0.75 for label in whole)


def test_the_seed_chooses_rows_and_split():
    _, train, test = docstring_rows("area", 0)
    _, other_train, other_test = docstring_rows("area", 1)
    assert docstring_rows("area", 0) == (_, train, test)
    assert set(train + test) != set(other_train + other_test)
    assert set(test) & set(other_train)


@pytest.mark.slow
def test_a_fresh_process_agrees_is_silent_quick_and_imports_nothing_with_side_effects():
    """Against this process it has another hash seed, another import order, and none of what pytest and tests load."""
    script = (
        "import hashlib, json, sys, time\n"
        "from trainers.data.docstrings import docstring_rows\n"
        "start = time.perf_counter()\n"
        "rows = [json.dumps(docstring_rows(task, 5)) for task in sys.argv[1].split(',')]\n"
        "took = time.perf_counter() - start\n"
        "modules = sorted({name.split('.')[0] for name in sys.modules})\n"
        "print(json.dumps([took, modules, [hashlib.sha256(row.encode()).hexdigest() for row in rows]]))\n"
    )
    order = list(reversed(TASKS))
    command = [sys.executable, "-W", "always", "-c", script, ",".join(order)]
    environment = os.environ | {"PYTHONHASHSEED": "11", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    took, modules, digests = json.loads(done.stdout)  # fails if anything else was printed
    assert digests == [digest(task, 5) for task in order]
    assert done.stderr == ""
    assert not SIDE_EFFECTS & set(modules)
    assert took < 20  # 5 s on two free cores


def test_stripped_docstrings_are_an_error():
    script = "from trainers.data.docstrings import docstring_rows; docstring_rows('area', 0)"
    done = subprocess.run(
        [sys.executable, "-OO", "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert "DataError: task 'area' of source docstrings: Python runs with -OO" in done.stderr


def test_library_names_are_masked_as_whole_words_only():
    names = "numpy|np|torch|pytorch|pandas|pd|pyarrow|python"
    _, train, test = docstring_rows("library", 0)
    found = [text for text, _ in train + test if re.search(rf"\b(?:{names})\b", text, re.IGNORECASE)]
    assert found == []
    assert masked("Np input of np.array in NumPy", "numpy|np") == "_ input of _.array in _"


def test_module_names_are_masked_in_area():
    area_of = {module: area for area, modules in AREAS.items() for module in modules.split()}
    assert len(area_of) == sum(len(modules.split()) for modules in AREAS.values())  # no module in two areas
    text_of = {entry.name: masked(summary(entry.doc), entry.module.replace(".", "|")) for entry in entries("python")}
    assert text_of["queue.Queue"].startswith("Create a _ object")
    assert text_of["builtins.str.upper"] == "Return a copy of the string converted to uppercase."


def test_entries_are_public_objects_of_the_library_itself():
    names = {library: {entry.name: entry.kind for entry in entries(library)} for library in ("numpy", "python")}
    assert names["python"]["textwrap.dedent"] == "function"
    assert names["python"]["textwrap"] == "module"
    assert names["python"]["queue.Queue.put"] == "method"
    assert names["python"]["queue.Empty"] == "exception"
    assert names["python"]["ipaddress.IPv4Address.packed"] == "property"
    assert names["numpy"]["numpy.ndarray"] == "class"
    assert "fractions.Decimal" not in names["python"]  # imported there, not defined there
    assert "ast.contextmanager" not in names["python"]
    assert not [name for found in names.values() for name in found if "._" in name]


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("Sort an array.\n\nParameters\n----------\na : array", "Sort an array."),
        ("sort(a, axis=-1,\n     kind=None) -> array\n\nSort it.", "Sort it."),
        ("dict(mapping) -> new\n    from pairs\ndict() -> empty\n\nMake one.", "Make one."),
        ("Apply it.\n\nArgs:\n    x: what", "Apply it."),
        ("Apply it.\n>>> apply()\n3", "Apply it."),
        ("Apply it.\n\n.. versionadded:: 3\n   more", "Apply it."),
        ("See :func:`~torch.add` and :class:`a.B` with ``x`` *now* :math:`x^2`.", "See torch.add and a.B with x now ."),
        ("word " * 40, ("word " * 32).strip()),
        ("x" * 200, "x" * 161),
    ],
)
def test_summary_is_the_opening_prose(doc, expected):
    assert summary(doc) == expected


def test_passage_holds_prose_only():
    assert passage("Parameters", "a : int\n    The first.\nb : str\n    The second.") == "The first. The second."
    assert passage("Examples", "Add two:\n\n>>> 1 + 1\n2\n\nDone.") == "Add two: Done."
    assert (
        passage("See Also", "sort : Sort an array.\nargsort, lexsort\n    Indirect sort.")
        == "Sort an array. Indirect sort."
    )
    assert passage("Notes", "Text.\n.. versionadded:: 2\n\nMore.") == "Text. More."


def test_near_identical_texts_count_once():
    pairs = [("Return the 1st item now.", "a"), ("return the (2)st ITEM now", "b"), ("too short it", "a")]
    assert list(unique(pairs).values()) == [("Return the 1st item now.", "a")]
    assert draw(0, "rows", "x") == hashlib.sha256(b"0\nrows\nx").hexdigest()


def test_load_task_reads_a_built_in_task():
    task = DocstringsTask(name="area", source="docstrings", task="area", max_train_rows=100, max_test_rows=50)
    loaded = load_task(task, DataConfig(), None, seed=0)
    labels, train, test = docstring_rows("area", 0)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (100, round(0.1 * len(train)), 50)
    assert loaded.labels == labels
    assert loaded.warnings == ()
    assert loaded.test["text"][:] == [text for text, _ in test[:50]]
