"""Built-in tasks from text that every installation has: the docstrings of its own libraries.

Four classification tasks over docstrings of numpy, torch, pandas, pyarrow and the Python standard library, read by
introspection from the modules listed here and from no others. What comes out depends on the installed versions, the
platform and the seed alone: not on import order, hash seed or file system.

    library   which library a summary describes; library names are masked
    section   which section of a numpydoc docstring a passage stands in; headers, names, types and code are taken out
    kind      whether a summary describes a function, a class, a method, a property, an exception or a module
    area      which area of the standard library a summary belongs to; module names are masked
"""

import hashlib
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal

from cluster.errors import DataError

DocstringTask = Literal["library", "section", "kind", "area"]
Pair = tuple[str, str]  # text, label

# Left out, since other packages replace parts of them, and rows would depend on what was imported: `inspect` (replaced
# by torch), `warnings`, and every function named …hook.
AREAS = {
    "text processing": "builtins.str codecs difflib gettext html locale re shlex string textwrap unicodedata",
    "data structures": "array bisect builtins.dict builtins.frozenset builtins.list builtins.set builtins.tuple "
    "collections collections.abc copy dataclasses enum graphlib heapq queue types weakref",
    "dates and times": "calendar datetime sched time zoneinfo",
    "mathematics": "builtins.complex builtins.float builtins.int cmath decimal fractions math numbers random "
    "statistics",
    "files and directories": "filecmp fileinput fnmatch glob io os.path pathlib shutil stat tempfile",
    "file formats": "bz2 configparser csv gzip json lzma mimetypes pickle plistlib tarfile "
    "xml.dom.minidom xml.etree.ElementTree xml.sax.handler zipfile zlib",
    "networking": "email.utils ftplib http.client http.cookiejar http.server imaplib ipaddress poplib select smtplib "
    "socket socketserver ssl urllib.parse urllib.request urllib.robotparser xmlrpc.client",
    "concurrency": "asyncio concurrent.futures contextvars multiprocessing multiprocessing.pool "
    "multiprocessing.shared_memory signal subprocess threading",
    "debugging": "ast bdb cProfile dis faulthandler logging logging.handlers pstats timeit tokenize trace "
    "traceback tracemalloc unittest unittest.mock",
}
LIBRARIES = {
    "numpy": "numpy numpy.fft numpy.lib numpy.linalg numpy.ma numpy.polynomial numpy.random numpy.strings",
    "torch": "torch torch.amp torch.autograd torch.cuda torch.distributions torch.fft torch.linalg torch.nn "
    "torch.nn.functional torch.nn.init torch.nn.utils torch.optim torch.optim.lr_scheduler torch.random torch.sparse "
    "torch.special torch.utils.data",
    "pandas": "pandas pandas.api.extensions pandas.api.types pandas.errors pandas.plotting pandas.tseries.offsets",
    "pyarrow": "pyarrow pyarrow.compute pyarrow.csv pyarrow.dataset pyarrow.feather pyarrow.fs pyarrow.ipc "
    "pyarrow.json pyarrow.parquet pyarrow.types",
    "python": " ".join(AREAS.values()),
}
SECTIONS = {  # numpydoc header: label
    "Parameters": "parameters",
    "Returns": "return value",
    "Examples": "examples",
    "Notes": "notes",
    "See Also": "related functions",
    "Raises": "errors",
}
NUMPYDOC_LIBRARIES = ("numpy", "pandas", "pyarrow")
LIBRARY_NAMES = r"numpy|np|pytorch|torch|aten|pandas|pd|pyarrow|pa|apache arrow|arrow|cpython|python"
MASK = "_"
TEXT_CHARS = 160
MAX_ROWS = 1400  # of a task, train and test together
BALANCE = 3  # the largest label has at most this many times the rows of the smallest
TEST_SHARE = 0.25

HEADER = re.compile(r"^(\w[\w ]*)\n-{3,} *$", re.MULTILINE)
SIGNATURE = re.compile(r"\A(?:[\w.]+\([^\n]*(?:\n +[^\n]*)*\n*)+")
GOOGLE_HEADERS = "Args|Arguments|Examples?|Inputs?|Keyword Args|Notes?|Outputs?|Parameters|Raises|Returns?|Shape|Usage"
SUMMARY_END = re.compile(
    rf"^(?:\w[\w ]*\n *[-=~^]{{3,}} *$| *(?:{GOOGLE_HEADERS}):{{1,2}} *$| *>>>| *\.\. )", re.MULTILINE
)


@dataclass(frozen=True)
class Entry:
    """A documented public object: dotted `name` below the listed `module`, what it is, and its dedented docstring."""

    name: str
    module: str
    kind: str
    doc: str


def docstring_rows(task: DocstringTask, seed: int) -> tuple[tuple[str, ...], list[Pair], list[Pair]]:
    """Labels in alphabetical order, training rows and test rows, each row (text, label).

    Texts are whitespace-normalised, at most 160 characters and at least four words long; no two rows of a task, in
    train or test, are equal once case, digits and punctuation are dropped. Every label gives the same number of rows,
    or all that it has if they are fewer: at most MAX_ROWS / labels, and at most three times the smallest label. A
    quarter of each label's rows is for the test. Selection, split and order are drawn by `seed`.

    Raises:
        DataError: Python runs with `-OO`, which strips docstrings.
    """
    if sys.flags.optimize >= 2:
        raise DataError(f"task {task!r} of source docstrings: Python runs with -OO and has no docstrings; drop -OO")
    by_label: dict[str, list[Pair]] = {}
    for _, pair in sorted((draw(seed, "rows", key), pair) for key, pair in unique(PAIRS[task]()).items()):
        by_label.setdefault(pair[1], []).append(pair)
    cap = min(BALANCE * min(map(len, by_label.values())), MAX_ROWS // len(by_label))
    train, test = [], []
    for pairs in by_label.values():
        cut = round(TEST_SHARE * min(cap, len(pairs)))
        test += pairs[:cut]
        train += pairs[cut:cap]
    for rows in (train, test):
        rows.sort(key=lambda pair: draw(seed, "order", pair[0]))
    return tuple(sorted(by_label)), train, test


def draw(seed: int, purpose: str, key: str) -> str:
    """A pseudo-random rank of `key`, independent for each purpose: sha256 over the three lines, hexadecimal."""
    return hashlib.sha256(f"{seed}\n{purpose}\n{key}".encode()).hexdigest()


def unique(pairs: Iterable[Pair]) -> dict[str, Pair]:
    """The first pair for each text reduced to its lower-case letters; texts of fewer than four words are left out."""
    found: dict[str, Pair] = {}
    for text, label in pairs:
        key = " ".join(re.findall(r"[a-z]+", text.lower()))
        if key.count(" ") >= 3:
            found.setdefault(key, (text, label))
    return found


# ---------------------------------------------------------------- the four tasks


def library_pairs() -> Iterator[Pair]:
    """(summary with library names masked, library)."""
    for library in LIBRARIES:
        for entry in entries(library):
            yield masked(summary(entry.doc), LIBRARY_NAMES), library


def kind_pairs() -> Iterator[Pair]:
    """(summary, kind of object), over all libraries."""
    for library in LIBRARIES:
        for entry in entries(library):
            yield summary(entry.doc), entry.kind


def area_pairs() -> Iterator[Pair]:
    """(summary with the words of the module's path masked, area), over the standard library."""
    area_of = {module: area for area, modules in AREAS.items() for module in modules.split()}
    for entry in entries("python"):
        yield masked(summary(entry.doc), entry.module.replace(".", "|")), area_of[entry.module]


def section_pairs() -> Iterator[Pair]:
    """(passage, section), over the libraries that write numpydoc."""
    for library in NUMPYDOC_LIBRARIES:
        for entry in entries(library):
            parts = HEADER.split(entry.doc)  # text, header, text, header, …
            for header, body in zip(parts[1::2], parts[2::2], strict=True):
                title = header.title()
                if title in SECTIONS:
                    yield passage(title, body), SECTIONS[title]


PAIRS = {"library": library_pairs, "section": section_pairs, "kind": kind_pairs, "area": area_pairs}


# ---------------------------------------------------------------- text


def summary(doc: str) -> str:
    """The prose a docstring opens with: no signature, nothing from the first header, directive or example on."""
    prose = SIGNATURE.sub("", doc, count=1)
    end = SUMMARY_END.search(prose)
    return plain(prose[: end.start()] if end else prose)


def passage(title: str, body: str) -> str:
    """The prose of one section: no doctests, no directives, no `name : type` lines, no names of related functions."""
    lines, doctest = [], False
    for line in body.split("\n"):
        doctest = bool(line.strip()) and (doctest or line.lstrip().startswith(">>>"))
        is_name = title in {"Parameters", "Returns", "Raises"} and not line.startswith(" ")
        if doctest or is_name or line.lstrip().startswith(".. "):
            continue
        if title == "See Also" and not line.startswith(" "):
            line = line.partition(" : ")[2]  # noqa: PLW2901
        lines.append(line)
    return plain("\n".join(lines))


def plain(text: str) -> str:
    """Text without reStructuredText markup, on one line, cut at a word to 160 characters."""
    text = re.sub(r":math:`[^`]*`", " ", text)
    text = re.sub(r":[\w:]+:`~?\.?([^`<]*)[^`]*`", r"\1", text)
    text = " ".join(re.sub(r"[`*|\\]+", "", text).split())
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS + 1].rsplit(" ", 1)[0]


def masked(text: str, names: str) -> str:
    """Text with each whole word among `names` (alternatives of a regular expression, any case) replaced by `_`."""
    return re.sub(rf"(?<![a-z])(?:{names})(?![a-z])", MASK, text, flags=re.IGNORECASE)


# ---------------------------------------------------------------- introspection


@cache
def entries(library: str) -> tuple[Entry, ...]:
    """Documented public objects of the listed modules of one library, in name order; imports those modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {entry.name: entry for path in LIBRARIES[library].split() for entry in module_entries(path, library)}
    return tuple(found[name] for name in sorted(found))


def module_entries(path: str, library: str) -> Iterator[Entry]:
    """A module itself, then its public functions and classes that are the library's own; `builtins.x` is one class."""
    if path.startswith("builtins."):
        yield from object_entries(path, path, getattr(importlib.import_module("builtins"), path.split(".")[1]), library)
        return
    module = importlib.import_module(path)
    yield from described(path, path, "module", module)
    exported = set(getattr(module, "__all__", ()))
    for name in exported or set(dir(module)):
        value = getattr(module, name, None)
        if name.startswith("_") or name.endswith("hook") or isinstance(value, ModuleType) or not callable(value):
            continue
        # Without __all__, what a standard module imports from its neighbours looks like its own.
        own = exported or home(value, library).lstrip("_") == path.split(".", maxsplit=1)[0]
        if own and belongs(value, library):
            yield from object_entries(f"{path}.{name}", path, value, library)


def object_entries(name: str, module: str, value: object, library: str) -> Iterator[Entry]:
    """A function, or a class with the public methods and properties it defines itself."""
    if not isinstance(value, type):
        yield from described(name, module, "function", value)
        return
    yield from described(name, module, "exception" if issubclass(value, BaseException) else "class", value)
    for attribute, member in vars(value).items():
        is_property = isinstance(member, property) or inspect.isgetsetdescriptor(member)
        is_method = inspect.isroutine(member) or isinstance(member, classmethod | staticmethod)
        if not attribute.startswith("_") and (is_property or is_method) and belongs(member, library):
            yield from described(f"{name}.{attribute}", module, "property" if is_property else "method", member)


def described(name: str, module: str, kind: str, value: object) -> Iterator[Entry]:
    """The object's entry, if it has a docstring."""
    doc = getattr(value, "__doc__", None)
    if isinstance(doc, str) and doc.strip():
        yield Entry(name, module, kind, inspect.cleandoc(doc))


def home(value: object, default: str) -> str:
    """Top-level package that defines `value`; `default` for builtins that do not say."""
    module = getattr(value, "__module__", None)
    return module.split(".")[0] if isinstance(module, str) else default


def belongs(value: object, library: str) -> bool:
    """Whether `value` is defined by the library itself, not re-exported from or patched in by another."""
    package = home(value, library)
    return package == library or (library == "python" and package in sys.stdlib_module_names)
