"""The written form of a configuration: a strict YAML file, and `--set` on the command line.

Whoever reads a configuration may have it from others. So a text, the values in it and their nesting are bounded before
anything is made of them; an alias counts as all that it stands for.
"""

import os
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader
except ImportError:  # PyYAML without libyaml: the same, ten times slower
    from yaml import SafeLoader as CSafeLoader  # type: ignore[assignment]

from cluster.errors import ConfigError
from cluster.words import brief
from orchestrator.config.errors import Yaml, shown

MOST_CHARACTERS, MOST_VALUES, MOST_DEPTH = 4 << 20, 50_000, 100  # of a file, and in it
WORDY = 50_000  # characters of which PyYAML itself, which explains best but is slow, is asked what is wrong
MOST_DIGITS = 400  # of a number
MOST_KEYS = 30  # in a dotted path
SAID, NAMED = 300, 100  # characters of an explanation, and of what it is about
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_mapping(path: Path, absent: str = "no such file; `orthoplex init` writes one") -> dict[str, Yaml]:
    """The mapping in a YAML file; `absent` is the message if there is no such file.

    Raises:
        ConfigError: the file is absent, cannot be read, is not UTF-8, YAML or a mapping, is too large, or gives a key
            twice.
    """
    try:
        text = _read_text(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: {absent}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{brief(str(path), NAMED)}: cannot be read: {reason}; give a YAML file") from None
    content = _read_yaml(text, str(path))
    if not isinstance(content, dict):
        found = "nothing" if content is None else shown(content)
        raise ConfigError(f"{path}: expected a mapping of keys at the top, found {found}")
    return content


def _read_text(path: Path) -> str:
    """The text of a file, or of a pipe. Raises ConfigError if it is too long."""
    with open(path, encoding="utf-8-sig", opener=_open_at_once) as file:
        text = file.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{path}: has more than {MOST_CHARACTERS:,} characters; give the YAML file of a run")
    return text


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file; of a pipe that nobody writes to, the end is read at once."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


class _Strict(yaml.constructor.SafeConstructor):
    """Also refuses repeated keys (PyYAML silently keeps the last), keys that are not strings, and cycles."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _bad_yaml(f"the key {shown(key)} is not a string; quote it", key_node)
            if key in seen:
                raise _bad_yaml(f"the key {brief(repr(key), NAMED)} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag in NUMBERS and len(node.value) > MOST_DIGITS:
                raise ValueError
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError):  # as from 2024-99-99
            raise _bad_yaml(f"{shown(node.value)} cannot be read as a number or a date; quote it", node) from None


class _PlainLoader(_Strict, yaml.SafeLoader):
    """All in Python, whose explanations are the better ones."""


class _QuickLoader(_Strict, CSafeLoader):
    """Reads by libyaml."""


def _bad_yaml(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _read_yaml(text: str, origin: str) -> Yaml:
    """The value that a text holds. Raises ConfigError, which `origin` heads."""
    try:
        _refuse_bombs(text)
        try:
            return _loaded(_QuickLoader(text))
        except (yaml.YAMLError, UnicodeError):
            if len(text) > WORDY:
                raise
            return _loaded(_PlainLoader(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        said = at + ", ".join(part for part in (error.context, error.problem) if part)
    except (yaml.YAMLError, UnicodeError) as error:
        said = str(error).splitlines()[0]
    except RecursionError:
        said = "nested too deeply"
    raise ConfigError(f"{brief(origin, NAMED)}: not valid YAML: {brief(said, SAID)}")


def _loaded(loader: "_PlainLoader | _QuickLoader") -> Yaml:
    """The one document of a loader."""
    loader.deep_construct = True  # an alias inside its own anchor is an error
    try:
        content: Yaml = loader.get_single_data()
        return content
    finally:
        loader.dispose()


def _refuse_bombs(text: str) -> None:
    """Raises an error of YAML if a text holds too much, without making it. What is no YAML is left to the loaders."""
    sizes, begun, total = dict[str, int](), list[tuple[str | None, int]](), 0
    for event in _events(text):
        anchor, before = getattr(event, "anchor", None), total
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append((anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
        total += sizes.get(anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
        if anchor and isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            sizes[anchor] = total - before
        if len(begun) > MOST_DEPTH:
            raise yaml.YAMLError("nested too deeply")
        if total > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} keys and values, aliases included; leave some out")


def _events(text: str) -> Iterator[yaml.Event]:
    """What a parser reads, until the text is no YAML any more."""
    try:
        yield from yaml.parse(text, Loader=CSafeLoader)
    except (yaml.YAMLError, UnicodeError):
        return


def override(content: dict[str, Yaml], assignment: str) -> None:
    """Sets one key of a configuration in place: `a.b=value`, the value as YAML, list items by number.

    Raises:
        ConfigError: the assignment is not of this form, or its key leads through a value.
    """
    path, equals, text = assignment.partition("=")
    keys, origin = path.split("."), f"--set {brief(repr(assignment), NAMED)}"
    if not equals or not all(keys) or len(keys) > MOST_KEYS:
        raise ConfigError(f"{origin}: expected KEY=VALUE with a dotted key, as in train.epochs=1")
    try:
        value = _read_yaml(text, origin)
    except ConfigError as error:
        raise ConfigError(f"{error}; put a string in quotes, as in '{brief(path, NAMED)}=\"…\"'") from None
    target: Any = content
    for depth, key in enumerate(keys):
        place: Any = key
        where = ".".join(keys[:depth])
        if isinstance(target, list):
            place = item_number(key)
            if place is None or place >= len(target):
                items = f"has items 0 to {len(target) - 1}" if target else "is an empty list and has no item"
                raise ConfigError(f"{origin}: {where} {items}, not {brief(repr(key), NAMED)}")
        elif not isinstance(target, dict):
            raise ConfigError(f"{origin}: {where} is a value and has no key {brief(repr(key), NAMED)}")
        if depth == len(keys) - 1:
            target[place] = value
            return
        old = target[place] if isinstance(target, list) else target.get(place)
        target[place] = {} if old is None else copy(old)  # a value shared by a YAML alias changes here alone
        target = target[place]


def item_number(text: str) -> int | None:
    """The number, of at most nine digits, that a key of a list is; None if it is none."""
    return int(text) if text.isdecimal() and len(text) < 10 else None
