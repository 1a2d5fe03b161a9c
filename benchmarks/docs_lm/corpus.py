"""The corpus of docs-lm: docstrings and documentation of openly licensed packages, from wheels in a folder.

    python -m benchmarks.docs_lm.corpus WHEELS OUTPUT

Packages are divided by the hash of their names (`held_out`). What is held out is never read: quickstart and tests draw
from there. Other packages copy text of held-out ones. So a passage that shares ten words in a row with the
documentation of a library that `trainers.data.docstrings` reads is dropped, whatever package it stands in.

OUTPUT gets `corpus.jsonl.gz`, one document per line ({"package", "text"}), and `packages.json`, what was read: version,
licence and characters per package.
"""

import argparse
import ast
import gzip
import hashlib
import importlib.util
import json
import multiprocessing
import re
import sys
import sysconfig
import textwrap
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from email import message_from_string
from email.message import Message
from functools import cache
from pathlib import Path

from trainers.data.docstrings import LIBRARIES, entries

SHARE_HELD_OUT = 8  # one package of so many
OPEN = re.compile(
    r"\b(?:MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Unlicense|CC0|Zlib|HPND|ZPL|Zope)\b",
    re.IGNORECASE,
)
CLOSED = re.compile(r"\b[AL]?GPL|GNU|Proprietary|Commercial|Non-?Commercial|Creative Commons.*NC\b", re.IGNORECASE)
DOCUMENTS = (".md", ".rst", ".txt")
NOT_PROSE = re.compile(
    r"(?:^|/)(?:licen[sc]e|copying|notice|authors|requirements|top_level|entry_points|record)", re.IGNORECASE
)
MAX_PACKAGE = 6_000_000  # characters; a few generated packages would fill the corpus
SHINGLE = 10  # words


@dataclass(frozen=True)
class Package:
    """What was read of one package."""

    name: str
    version: str
    licence: str
    characters: int


def held_out(name: str) -> bool:
    """Whether a package is kept for quickstarts and tests: one in eight, by sha256 of its name, and all libraries that
    `trainers.data.docstrings` reads."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    by_hash = int(hashlib.sha256(name.encode()).hexdigest(), 16) % SHARE_HELD_OUT == 0
    return by_hash or name in LIBRARIES


def licence(metadata: Message) -> str | None:
    """The open licence that the metadata name, in their words; None if they name none, or another beside it."""
    named = [metadata.get("License-Expression") or "", *(metadata.get_all("Classifier") or [])]
    named = [text for text in named if text and (text.startswith("License") or not text.count("::"))]
    if not named:
        named = [(metadata.get("License") or "")[:60]]
    text = "; ".join(part.rpartition(":: ")[2] for part in named).strip()
    return text if OPEN.search(text) and not CLOSED.search(text) else None


# ---------------------------------------------------------------- text


def definitions(source: str) -> Iterator[str]:
    """What a Python file documents: its own docstring, then each definition that has one, as header and docstring."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    if doc := ast.get_docstring(tree):
        yield doc
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (doc := ast.get_docstring(node)):
            yield f"{header(node)}\n" + textwrap.indent(f'"""{doc}\n"""', "    ", lambda line: bool(line.strip()))


def header(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """`class Name(Base):` or `def name(arguments):`, as one line."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}:"


def shingles(text: str) -> Iterator[int]:
    """A number for each ten words in a row, case, digits and punctuation dropped."""
    words = re.findall(r"[a-z]+", text.lower())
    for start in range(len(words) - SHINGLE + 1):
        yield int.from_bytes(hashlib.blake2b(" ".join(words[start : start + SHINGLE]).encode(), digest_size=8).digest())


@cache
def protected() -> frozenset[int]:
    """Shingles of what the held-out libraries document: their docstrings, and the strings in their sources."""
    found: set[int] = set()
    for library in LIBRARIES:
        for entry in entries(library):
            found.update(shingles(entry.doc))
        for path in sources(library):
            for text in strings(path.read_text(errors="replace")):
                found.update(shingles(text))
    return frozenset(found)


def sources(library: str) -> Iterable[Path]:
    """The Python files of a library; of the standard one, without what is installed beside it and without tests."""
    if library != "python":
        spec = importlib.util.find_spec(library)
        assert spec is not None and spec.submodule_search_locations
        return sorted(Path(spec.submodule_search_locations[0]).rglob("*.py"))
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
    return [path for path in sorted(root.rglob("*.py")) if not left_out & set(path.relative_to(root).parts)]


def strings(source: str) -> Iterator[str]:
    """String constants of a Python file that are long enough for a shingle."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 40:
            yield node.value


# ---------------------------------------------------------------- packages


def documents(wheel: Path) -> tuple[Package | None, list[str]]:
    """What one wheel gives: its record, None if it is held out or not openly licensed, and its documents."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata_name = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
        if metadata_name is None:
            return None, []
        metadata = message_from_string(archive.read(metadata_name).decode(errors="replace"))
        words = licence(metadata)
        if words is None or held_out(metadata["Name"]):
            return None, []
        seen: set[int] = set()
        texts: list[str] = []
        room = MAX_PACKAGE
        for text in passages(archive, names, str(metadata.get_payload())):
            marks = set(shingles(text))
            if hash(text) in seen or marks & protected():
                continue
            seen.add(hash(text))
            texts.append(text)
            room -= len(text)
            if room < 0:
                break
    return Package(metadata["Name"], metadata["Version"], words, sum(map(len, texts))), texts


def passages(archive: zipfile.ZipFile, names: list[str], readme: str) -> Iterator[str]:
    """The README, then documents, then per Python file what its definitions say, tests left out."""
    yield from paragraphs(readme)
    for name in names:
        if re.search(r"(?:^|/)(?:tests?|testing|_vendor|vendored?|locale)/", name):
            continue
        if name.endswith(DOCUMENTS) and not NOT_PROSE.search(name) and archive.getinfo(name).file_size < 400_000:
            yield from paragraphs(archive.read(name).decode(errors="replace"))
        if name.endswith(".py") and archive.getinfo(name).file_size < 2_000_000:
            yield from definitions(archive.read(name).decode(errors="replace"))


def paragraphs(text: str) -> Iterator[str]:
    """A document in pieces of some 2,000 characters, cut at empty lines, if they are prose."""
    piece: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        piece.append(paragraph)
        if sum(map(len, piece)) > 2000:
            yield from prose("\n\n".join(piece))
            piece = []
    yield from prose("\n\n".join(piece))


def prose(text: str) -> Iterator[str]:
    """The text, if it is any: at least 80 characters, seven in ten of them letters or spaces, and ASCII nearly all."""
    letters = sum(character.isascii() and (character.isalpha() or character.isspace()) for character in text)
    if len(text) >= 80 and letters >= 0.7 * len(text):
        yield text.strip()


def main() -> None:
    """See the head of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheels", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    protected()  # for the processes that are forked
    packages = []
    with (
        gzip.open(arguments.output / "corpus.jsonl.gz", "wt", compresslevel=4) as corpus,
        ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool,
    ):
        for package, texts in pool.map(documents, sorted(arguments.wheels.glob("*.whl"))):
            if package is None:
                continue
            packages.append(package)
            print(
                f"{package.characters:>10,}  {package.name} {package.version}  {package.licence[:60]}", file=sys.stderr
            )
            for text in texts:
                corpus.write(json.dumps({"package": package.name, "text": text}) + "\n")
    record = [asdict(package) for package in packages if package.characters]
    (arguments.output / "packages.json").write_text("[\n" + ",\n".join(map(json.dumps, record)) + "\n]\n")
    print(f"{sum(package.characters for package in packages):,} characters of {len(record)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
