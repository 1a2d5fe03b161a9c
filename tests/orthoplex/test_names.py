"""A folder of a user with the name of one of our packages, as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(folder: Path, *words: str, first: bool = True) -> subprocess.CompletedProcess[str]:
    """Python in a folder; it, or the checkout, comes first where modules are looked for."""
    paths = [str(folder), str(ROOT)] if first else [str(ROOT), str(folder)]
    return subprocess.run(
        [sys.executable, *words], check=False, cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["orchestrator", "trainers/__init__.py", "cluster.py"])
def test_the_place_in_the_way_is_named(name: str, tmp_path: Path) -> None:
    place = tmp_path / name if name.endswith(".py") else tmp_path / name / "__init__.py"
    place.parent.mkdir(exist_ok=True)
    place.touch()
    seen = place.parent if place.name == "__init__.py" else place
    done = python(tmp_path, "-c", "import orthoplex; orthoplex.run({})")
    assert f"ImportError: {seen}: has the name of a package of Orthoplex" in done.stderr
    done = python(tmp_path, "-m", "orthoplex", "--version")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"orthoplex: {seen}: has the name")
    assert "Traceback" not in done.stderr


def test_what_is_not_in_the_way_does_no_harm(tmp_path: Path) -> None:
    """A folder without `__init__.py`, and a package that comes after ours on the path."""
    (tmp_path / "trainers").mkdir()
    assert python(tmp_path, "-c", "import orthoplex; orthoplex.run").returncode == 0
    (tmp_path / "trainers/__init__.py").touch()
    code = "import sys; sys.path.remove(''); import orthoplex; orthoplex.run"
    assert python(tmp_path, "-c", code, first=False).returncode == 0


def test_a_module_that_was_imported_before_is_seen(tmp_path: Path) -> None:
    (tmp_path / "cluster.py").touch()
    back = f"sys.path = [each for each in sys.path if each not in ('', {str(tmp_path)!r})]"
    code = f"import cluster, sys; {back}; import orthoplex; orthoplex.run"
    assert "cluster.py: has the name" in python(tmp_path, "-c", code).stderr
