"""Each seam has a test double that passes its conformance test, and few files know an implementation behind it.

The files that know one are those that adding another one touches, beside its own module and its tests. docs/design.md
names them per seam.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "trainers", "cluster")
MOST = 3

DOUBLES = {  # of each seam: the double's class, the file that has it, the conformance test
    "method": ("ShiftConfig", "tests/support/shift_method.py", "tests/trainers/methods/test_conformance.py"),
    "objective": ("FreeAnswers", "tests/trainers/objectives/test_conformance.py", None),
    "collate": ("Packed", "tests/trainers/data/test_collate.py", None),
    "sink": ("Shelf", "tests/support/kept_sink.py", "tests/orchestrator/sinks/test_conformance.py"),
    "store": ("MemoryStore", "tests/support/memory_store.py", "tests/cluster/conftest.py"),
}
IMPLEMENTATIONS = {  # (module, name in it), * for any; and keys of a configuration that choose one
    "lora": [("trainers.methods.lora", "*"), ("trainers.method_config", "LoraConfig")],
    "classification": [("trainers.objectives.classification", "*")],
    "padded": [("trainers.data.collate", "Padded")],
    "tensorboard": [("orchestrator.sinks.tensorboard", "*"), ("", "tensorboard")],
    "jsonl": [("orchestrator.sinks.jsonl", "*"), ("", "jsonl")],
    "s3": [("cluster.storage.s3", "*"), ("cluster.storage", "S3Store")],
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def known(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of all that a file imports or defines; ("", key) of the fields that it reads or declares."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((module, alias.name) for alias in names)
            case ast.Import(names=names):
                yield from ((alias.name, "") for alias in names)
            case ast.ClassDef(name=name):
                yield module_of(path), name
            case ast.Attribute(attr=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield "", name


def knowing(wanted: list[tuple[str, str]]) -> list[str]:
    """The source files that know one of these, beside the modules that are given whole."""
    own = {module for module, name in wanted if name == "*"}
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [
        str(path.relative_to(ROOT))
        for path in paths
        if module_of(path) not in own
        and any((module, name) in wanted or (module, "*") in wanted for module, name in known(path))
    ]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_few_files_know_an_implementation(name: str) -> None:
    found = knowing(IMPLEMENTATIONS[name])
    assert 1 <= len(found) <= MOST, found


SEAM_OF = {
    "lora": "method", "classification": "objective", "padded": "collate", "tensorboard": "sink", "jsonl": "sink",
    "s3": "store",
}  # fmt: skip


def touched(seam: str) -> tuple[list[str], str]:
    """The files that docs/design.md has changed by another implementation of a seam, and that section's whole text."""
    text = (ROOT / "docs/design.md").read_text()
    (section,) = re.findall(rf"^## Adding an? {seam}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"^\d\. `([\w/.]+)`:", section, re.MULTILINE), section


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_the_design_names_the_files_that_another_implementation_touches(name: str) -> None:
    listed, section = touched(SEAM_OF[name])
    assert 2 <= len(listed) <= MOST and all((ROOT / path).is_file() for path in listed)
    own = {f"{module.replace('.', '/')}.py" for module, _ in IMPLEMENTATIONS[name]}
    assert all(path in section for path in knowing(IMPLEMENTATIONS[name]) if path not in own)
    assert DOUBLES[SEAM_OF[name]][2] in (None, *listed) or DOUBLES[SEAM_OF[name]][1] in section


@pytest.mark.parametrize("seam", DOUBLES)
def test_each_seam_has_a_double_that_its_conformance_test_knows(seam: str) -> None:
    name, home, conformance = DOUBLES[seam]
    assert any(own == name for module, own in known(ROOT / home) if module == module_of(ROOT / home))
    where = ROOT / (conformance or home)
    assert any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(ast.parse(where.read_text())))


def test_the_count_counts() -> None:
    """A base that everything imports is known to many."""
    assert len(knowing([("trainers.methods.base", "*")])) > MOST
