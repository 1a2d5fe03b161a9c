"""Imports go one way, nothing is too long, tests are found by name, and asking for help does not load torch."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from benchmarks.house import measure

ROOT = Path(__file__).parents[1]
PACKAGES = ("orthoplex", "orchestrator", "trainers", "cluster")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = {"torch", "ray", "transformers", "datasets", "boto3", "deepspeed", "pyarrow", "numpy"}
MOST_FILE_LINES, MOST_FUNCTION_LINES = 400, 60
TESTED_BY_NAME = ("orthoplex", "orchestrator", "trainers", "cluster")
LONG = 60  # lines of a module, above which it has a test file of its own
MOST_EXCEPTIONS = 5
EXCEPT: dict[str, str] = {  # long modules without a test file of their name, each with the reason
    "trainers/messages.py": "records without behaviour; tests of workers send all of them",
    "trainers/methods/base.py": "a seam; test_conformance.py beside it holds every method to it",
    "trainers/objectives/base.py": "a seam; test_conformance.py beside it holds every objective to it",
}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def first_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def loaded(code: str, tmp_path: Path) -> set[str]:
    """Heavy packages that a fresh interpreter has imported after running `code`."""
    report = "import atexit, sys; atexit.register(lambda: print('\\nLOADED', *sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + code],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.rpartition("LOADED")[2].split())


def test_imports_go_one_way(tmp_path: Path) -> None:
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        f"sys.exit(lint_imports(config_filename={str(ROOT / 'pyproject.toml')!r}, no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kept, 0 broken" in done.stdout


def test_the_measured_bounds_hold() -> None:
    assert measure(ROOT).faults() == []


def test_a_broken_bound_is_a_fault(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "one.py").write_text("from typing import Any\n\n\ndef f(x: Any) -> Any:\n    return x\n")
    assert measure(tmp_path).faults() == ["orchestrator: 400.0 Any per 1,000 lines"]


def test_the_four_packages_are_there() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES) and len(MODULES) > 20


def test_the_map_in_the_design_names_every_module_and_no_other() -> None:
    chapter = (ROOT / "docs/design.md").read_text("utf-8").partition("\n## Map\n")[2].partition("\n## ")[0]
    named = re.findall(r"^- `([^`]+)` — \S", chapter, re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in MODULES if path.name != "__init__.py")


def defined(path: Path) -> set[str]:
    """Functions and classes of a module, and the methods of its classes as Class.method."""
    top = [node for node in ast.parse(path.read_text("utf-8")).body if hasattr(node, "name")]
    below = {f"{node.name}.{each.name}" for node in top for each in node.body if hasattr(each, "name")}
    return {node.name for node in top} | below


def test_the_walks_in_the_design_name_what_is_there() -> None:
    chapter = (ROOT / "docs/design.md").read_text("utf-8").partition("\n## Walks\n")[2].partition("\n## ")[0]
    steps = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", chapter)
    assert len(steps) > 40 and [step for step in steps if step[1] not in defined(ROOT / step[0])] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MOST_FILE_LINES
    long = {
        function.name: size
        for function in functions(ast.parse(text))
        if (size := (function.end_lineno or 0) - first_line(function) + 1) > MOST_FUNCTION_LINES
    }
    assert long == {}


def without_test_file(root: Path, packages: Collection[str]) -> set[str]:
    """Long modules PACKAGE/…/NAME.py below `root` that have no tests/PACKAGE/…/test_NAME.py."""
    paths = (path.relative_to(root) for package in packages for path in (root / package).rglob("*.py"))
    long = (path for path in paths if len((root / path).read_text("utf-8").splitlines()) > LONG)
    return {str(path) for path in long if not (root / "tests" / path.with_name(f"test_{path.name}")).is_file()}


def test_each_long_module_has_a_test_file_of_its_name() -> None:
    assert without_test_file(ROOT, TESTED_BY_NAME) == {*EXCEPT}
    assert len(EXCEPT) <= MOST_EXCEPTIONS and all(EXCEPT.values())


def test_a_module_without_a_test_file_is_seen(tmp_path: Path) -> None:
    for path, lines in {"a/b/long.py": 61, "a/short.py": 60, "a/tested.py": 61, "tests/a/test_tested.py": 1}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1\n" * lines)
    assert without_test_file(tmp_path, ["a"]) == {"a/b/long.py"}


@pytest.mark.parametrize(
    "code",
    [
        "import orchestrator.cli.main",
        "from orchestrator import load",
        "import orthoplex",
        "import orchestrator.config.run, orchestrator.track.state, orchestrator.run.guards, orchestrator.console.run",
        "import sys; sys.argv = ['orthoplex', '--help']; from orchestrator.cli.main import main; main()",
        "import sys; sys.argv = ['orthoplex', 'run', '--help']; from orchestrator.cli.main import main; main()",
        "import sys; sys.argv = ['orthoplex', 'init']; from orchestrator.cli.main import main; main()",
        "import sys; sys.argv = ['orthoplex', 'adapters', 'list']; from orchestrator.cli.main import main; main()",
    ],
)
def test_what_needs_no_torch_does_not_load_it(code: str, tmp_path: Path) -> None:
    assert loaded(code, tmp_path) == set()


def test_the_python_interface_loads_no_command_line(tmp_path: Path) -> None:
    """A call is resolved as far as the store: what follows loads the model."""
    code = (
        "import sys; from cluster.errors import ConfigError; from orchestrator import load\n"
        "import orchestrator.delivery.serving, orchestrator.registry.references\n"
        "try:\n    load('nobody@v1', store='empty')\nexcept ConfigError as error:\n    assert 'nobody' in str(error)\n"
        "command_line = {'typer', 'rich', 'matplotlib', 'optuna', 'orchestrator.cli', 'orchestrator.console'}\n"
        "surplus = command_line & {*sys.modules}\n"
        "assert not surplus, surplus"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_probe_sees_what_is_loaded(tmp_path: Path) -> None:
    assert loaded("import numpy", tmp_path) == {"numpy"}
